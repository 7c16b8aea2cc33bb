// Wide tables and lines of notebooks scroll inside frames: make each frame one that the keyboard reaches.
const FRAMES = ".md-typeset__scrollwrap:not([tabindex]), .highlight-ipynb:not([tabindex])";
function reachFrames() {
  for (const frame of document.querySelectorAll(FRAMES)) {
    frame.tabIndex = 0;
  }
}
new MutationObserver(reachFrames).observe(document.documentElement, { childList: true, subtree: true });
reachFrames();

// The theme's search is a dialog without a name, which screen readers ask for.
document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
