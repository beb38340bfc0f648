// Lists that move must not move away under a hand: while someone points into one or has the focus in it, it is held.

const canHover = matchMedia("(hover: hover)");

export function isBeingRead(list, note) {
  const isFocused = list !== document.activeElement && list.contains(document.activeElement);
  const isHeld = isFocused || (canHover.matches && list.matches(":hover"));
  note.hidden = !isHeld;
  return isHeld;
}
