// Wide tables scroll inside a frame of the theme: make each frame one that the keyboard reaches.
function reachFrames() {
  for (const frame of document.querySelectorAll(".md-typeset__scrollwrap:not([tabindex])")) {
    frame.tabIndex = 0;
  }
}
new MutationObserver(reachFrames).observe(document.documentElement, { childList: true, subtree: true });
reachFrames();
