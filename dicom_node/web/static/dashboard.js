// The picture of a study: which image lies below, and how opaque the layers above it are. Without this file every
// picture is still there, as a link.
"use strict";

function wire(viewer) {
  if (viewer.dataset.wired) return;
  viewer.dataset.wired = "yes";
  const below = viewer.querySelector("img.base");
  const over = viewer.querySelector("img.over");
  const heat = viewer.querySelector("img.heat");
  const outline = viewer.querySelector("svg.layer");
  const banner = viewer.querySelector(".synthetic");
  const opacity = viewer.querySelector("input[name=opacity]");
  const blend = viewer.querySelector("input[name=blend]");
  const show = () => {
    const chosen = viewer.querySelector("input[type=radio]:checked");
    const plain = chosen.value === "radiograph";
    heat.hidden = !plain;
    outline.toggleAttribute("hidden", !viewer.querySelector("input[name=outline]").checked);
    heat.style.opacity = opacity.value / 100;
    over.hidden = plain;
    if (!plain) {
      below.src = chosen.dataset.below || below.dataset.radiograph;
      if (over.getAttribute("src") !== chosen.dataset.source) over.src = chosen.dataset.source;
      over.style.opacity = blend.value / 100;
    } else {
      below.src = below.dataset.radiograph;
    }
    blend.disabled = plain;
    opacity.disabled = !plain;
    banner.textContent = chosen.dataset.banner || "";
    for (const range of [opacity, blend]) range.nextElementSibling.textContent = `${range.value} %`;
  };
  viewer.querySelector(".controls").hidden = false;
  viewer.addEventListener("input", show);
  show();
}

function wireAll() { document.querySelectorAll(".viewer").forEach(wire); }

document.addEventListener("DOMContentLoaded", wireAll);
document.addEventListener("htmx:load", wireAll);
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) {
    const search = document.querySelector("input[type=search]");
    if (search) { event.preventDefault(); search.focus(); }
  }
});
