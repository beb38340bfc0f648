// The page reads without this: it adds the theme switch, and unpacks the download where the browser can.
(() => {
  const root = document.documentElement;
  const button = document.querySelector(".toggle");
  const dark = () =>
    (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const name = () => { button.textContent = dark() ? "Light theme" : "Dark theme"; };
  button.hidden = false;
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; name(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
  name();

  const link = document.querySelector(".download");
  if (!link || !window.DecompressionStream) return;
  const packed = Uint8Array.from(atob(link.href.split(",")[1]), (c) => c.charCodeAt(0));
  const plain = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  new Response(plain).blob().then((json) => {
    link.href = URL.createObjectURL(new Blob([json], { type: "application/json" }));
    link.download = link.download.replace(/\.gz$/, "");
  });
})();
