"use strict";
(function () {
  document.documentElement.classList.add("scripted");

  function sortBy(table, column, header) {
    const body = table.tBodies[0];
    const rising = header.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const key = (row) => row.cells[column].dataset.order;
    const rows = Array.from(body.rows);
    rows.sort((a, b) => {
      const [first, second] = [key(a), key(b)];
      if (first === "" || second === "") return (first === "") - (second === ""); // without a value: last, both ways
      const numeric = Number(first) - Number(second);
      const order = Number.isNaN(numeric) ? first.localeCompare(second, undefined, { numeric: true }) : numeric;
      return rising ? order : -order;
    });
    rows.forEach((row) => body.append(row));
  }

  for (const table of document.querySelectorAll("table.sorted")) {
    Array.from(table.tHead.rows[0].cells).forEach((header, column) => {
      header.classList.add("sortable");
      header.tabIndex = 0;
      header.addEventListener("click", () => sortBy(table, column, header));
      header.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        sortBy(table, column, header);
      });
    });
  }

  function draw(group, outlines) {
    group.replaceChildren(
      ...outlines.map(([label, path]) => {
        const element = document.createElementNS("http://www.w3.org/2000/svg", "path");
        element.setAttribute("class", "outline l" + label);
        element.setAttribute("d", path);
        return element;
      })
    );
  }

  for (const stack of document.querySelectorAll(".stack")) {
    const data = JSON.parse(stack.querySelector("script").textContent);
    const slider = stack.querySelector("input");
    const strip = stack.querySelector("img");
    const caption = stack.querySelector("output");
    const show = () => {
      const place = Number(slider.value);
      strip.style.top = -100 * place + "%";
      caption.textContent = data.names[place] + (place === data.first ? ": " + data.caption : "");
      draw(stack.querySelector(".reference"), data.outlines[place][0]);
      draw(stack.querySelector(".prediction"), data.outlines[place][1]);
    };
    slider.addEventListener("input", show);
    // The wheel scrolls the page until the image is clicked: then it and the arrow keys scroll through slices.
    stack.querySelector(".cell").addEventListener("click", () => slider.focus());
    stack.querySelector(".cell").addEventListener("wheel", (event) => {
      if (document.activeElement !== slider) return;
      event.preventDefault();
      slider.value = Number(slider.value) + Math.sign(event.deltaY);
      show();
    }, { passive: false });
  }

  const links = new Map(Array.from(document.querySelectorAll("nav a"), (link) => [link.hash.slice(1), link]));
  if ("IntersectionObserver" in window) {
    const observer = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        links.forEach((link) => link.classList.remove("here"));
        links.get(entry.target.id)?.classList.add("here");
      }
    }, { rootMargin: "-20% 0px -75% 0px" });
    document.querySelectorAll("section[id]").forEach((section) => observer.observe(section));
  }
})();
