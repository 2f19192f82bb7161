// The button that switches all pages between the system's colours, light and dark.

const THEMES = ["system", "light", "dark"];
const KEY = "opengte-theme";

export function startTheme() {
  const button = document.getElementById("theme");
  const show = (theme) => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    const label = document.createElement("span"); // hidden on narrow screens
    label.className = "wide";
    label.append("Theme: ");
    button.replaceChildren(label, theme);
    button.setAttribute("aria-label", `Theme: ${theme}`);
  };
  let theme = localStorage.getItem(KEY);
  if (!THEMES.includes(theme)) theme = "system";
  show(theme);
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    localStorage.setItem(KEY, theme);
    show(theme);
  });
}
