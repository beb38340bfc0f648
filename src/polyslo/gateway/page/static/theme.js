// Light or dark: the system's wish, unless someone chose here; the choice stays in this browser.

const KEY = "polyslo-theme";
const system = matchMedia("(prefers-color-scheme: dark)");
const root = document.documentElement;

// Storage can be forbidden; then a choice lasts as long as the page.
function stored() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}

function store(theme) {
  try {
    if (theme) localStorage.setItem(KEY, theme);
    else localStorage.removeItem(KEY);
  } catch {
    return;
  }
}

const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);

function nameButton() {
  const button = document.getElementById("theme");
  if (button) button.textContent = isDark() ? "Light theme" : "Dark theme";
}

function toggle() {
  const theme = isDark() ? "light" : "dark";
  const isSystems = (theme === "dark") === system.matches;
  if (isSystems)
    delete root.dataset.theme; // follow the system again, when it changes by night
  else root.dataset.theme = theme;
  store(isSystems ? null : theme);
  nameButton();
}

if (["light", "dark"].includes(stored())) root.dataset.theme = stored();
system.addEventListener("change", nameButton);
document.addEventListener("DOMContentLoaded", () => {
  document.getElementById("theme").addEventListener("click", toggle);
  nameButton();
});
