// The screen of the reading room. It draws and passes on; which case is read, and what is kept, is decided in Python.
// A scan is int16 HU (z, y, x): z towards the head, y towards the back, x towards the patient's left.

const PLANES = ["axial", "coronal", "sagittal"]; // the axis they cut: z, y, x
const AIR = -1024; // the lowest HU kept; the highest is 3071
const KEYS =
  "wheel, ↑ ↓ slice · Page ↑ ↓ ten · Home End · a c s plane · 1–5 window · drag: width ↔ level ↕ · click: point · " +
  "l link · f full screen · y n answer · 6 7 8 9 0 confidence · Enter save";

function render({ model, el }) {
  let room = null; // the case on the screen
  let waiting = false; // for the desk's answer to what was saved
  let level = -600, width = 1500, linked = true, large = 0, active = 0, scheduled = false, late;
  const lut = new Uint32Array(4096);

  const part = (name, parent, cls, text = "") => {
    const made = document.createElement(name);
    if (cls) made.className = cls;
    made.textContent = text;
    parent.append(made);
    return made;
  };
  const root = part("div", el, "reading-room");
  root.tabIndex = 0;
  root.dataset.lmSuppressShortcuts = "true"; // keys are the room's, not JupyterLab's
  const head = part("div", root, "bar");
  const title = part("strong", head), place = part("span", head), view = part("span", head);
  const stands = part("div", root, "stands");
  const ask = part("div", root, "bar");
  const said = part("div", root, "said");
  said.setAttribute("role", "status");
  part("div", root, "keys", KEYS);

  const send = (kind, more = {}) => model.send({ kind, token: room?.token ?? "", ...more });
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  // --- drawing ---------------------------------------------------------------------------------------------------

  function window_(newLevel, newWidth) {
    level = clamp(Math.round(newLevel), AIR, 3071);
    width = clamp(Math.round(newWidth), 1, 8000);
    for (let i = 0; i < 4096; i++) {
      const gray = clamp(Math.round(((i + AIR - level) / width + 0.5) * 255), 0, 255);
      lut[i] = 0xff000000 | (gray * 0x010101);
    }
    draw();
  }

  function cut(scan, axis, k, out) { // one plane as RGBA, head up
    const [nz, ny, nx] = scan.shape, data = scan.data;
    if (axis === 0) for (let i = 0, at = k * ny * nx; i < ny * nx; i++) out[i] = lut[data[at + i] - AIR];
    for (let z = 0; axis > 0 && z < nz; z++) {
      const at = z * ny * nx, row = (nz - 1 - z) * (axis === 1 ? nx : ny);
      if (axis === 1) for (let x = 0; x < nx; x++) out[row + x] = lut[data[at + k * nx + x] - AIR];
      else for (let y = 0; y < ny; y++) out[row + y] = lut[data[at + y * nx + k] - AIR];
    }
  }

  // Columns and rows of a plane: the axes they follow, and where the point lies in it, 0 … 1 from the upper left.
  const across = (axis) => (axis === 2 ? 1 : 2), down = (axis) => (axis === 0 ? 1 : 0);
  const share = (scan, axis) => (scan.at[axis] + 0.5) / scan.shape[axis];
  const toScreen = (scan, axis) => (axis === 0 ? 1 - share(scan, 0) : share(scan, axis)); // the head is up

  function paint(scan, axis) {
    const canvas = scan.canvases[axis], [w, h] = [scan.shape[across(axis)], scan.shape[down(axis)]];
    const cached = (scan.images[axis] ??= { canvas: new OffscreenCanvas(w, h), pixels: new ImageData(w, h) });
    const key = `${scan.at[axis]} ${level} ${width}`;
    const ratio = window.devicePixelRatio || 1;
    const size = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
    if (cached.key !== key) {
      cut(scan, axis, scan.at[axis], new Uint32Array(cached.pixels.data.buffer));
      cached.canvas.getContext("2d").putImageData(cached.pixels, 0, 0);
      cached.key = key;
    }
    if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
    const mm = [w * scan.spacing[across(axis)], h * scan.spacing[down(axis)]];
    const scale = Math.min(size[0] / mm[0], size[1] / mm[1]);
    const box = (scan.boxes[axis] = [(size[0] - mm[0] * scale) / 2, (size[1] - mm[1] * scale) / 2, mm[0] * scale, mm[1] * scale]);
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, ...size);
    pen.drawImage(cached.canvas, ...box);
    pen.fillStyle = "#6cf8";
    if (axis !== large) {
      pen.fillRect(box[0] + toScreen(scan, across(axis)) * box[2], box[1], 1, box[3]);
      pen.fillRect(box[0], box[1] + toScreen(scan, down(axis)) * box[3], box[2], 1);
    }
    pen.fillStyle = "#fff";
    pen.font = `${14 * ratio}px sans-serif`;
    if (axis < 2 && scan.sides) pen.fillText("R", box[0] + 4 * ratio, box[1] + 18 * ratio);
  }

  function draw() {
    if (scheduled || !room?.shown) return;
    scheduled = true;
    requestAnimationFrame(() => {
      scheduled = false;
      if (!room?.shown) return;
      for (const scan of room.scans) {
        for (const axis of [0, 1, 2]) paint(scan, axis);
        const slice = `${PLANES[large]} ${scan.at[large] + 1} of ${scan.shape[large]}`;
        scan.label.textContent = `${scan.name}: ${slice} · ${scan.remark}`;
      }
      const preset = room.presets.find((one) => one[1] === level && one[2] === width);
      view.textContent = `window ${level}/${width} HU${preset ? ` (${preset[0]})` : ""}${linked ? "" : " · not linked"}`;
      root.dataset.frames = Number(root.dataset.frames || 0) + 1;
    });
  }

  // --- moving ----------------------------------------------------------------------------------------------------

  function move(scan, axis, slice) {
    scan.at[axis] = clamp(slice, 0, scan.shape[axis] - 1);
    const [low, high] = scan.lungs;
    for (const other of linked ? room.scans : []) {
      if (other === scan) continue;
      let at = share(scan, axis); // the same place: along the body by the ends of the lungs, else by the field
      if (axis === 0) at = other.lungs[0] + ((at - low) / (high - low)) * (other.lungs[1] - other.lungs[0]);
      other.at[axis] = clamp(Math.floor(at * other.shape[axis]), 0, other.shape[axis] - 1);
    }
    draw();
  }

  const step = (slices) => move(room.scans[active], large, room.scans[active].at[large] + slices);

  function enlarge(axis) {
    large = axis;
    for (const scan of room.scans) scan.canvases.forEach((one, number) => one.classList.toggle("large", number === large));
    draw();
  }

  function listen(canvas, scan, number, axis) {
    let from = null;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      active = number;
      if (room.shown) move(scan, axis, scan.at[axis] - Math.sign(event.deltaY) * (axis === 0 ? 1 : -1));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      root.focus({ preventScroll: true });
      canvas.setPointerCapture(event.pointerId);
      active = number;
      from = { x: event.clientX, y: event.clientY, level, width, far: false };
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!from || !room.shown) return;
      const [dx, dy] = [event.clientX - from.x, event.clientY - from.y];
      from.far ||= Math.hypot(dx, dy) > 3;
      if (from.far) window_(from.level + 2 * dy, from.width + 4 * dx);
    });
    canvas.addEventListener("pointerup", (event) => {
      if (from && !from.far && room.shown) point(canvas, scan, axis, event);
      from = null;
    });
  }

  function point(canvas, scan, axis, event) { // the other planes go to the point that was clicked
    const ratio = canvas.width / canvas.clientWidth, [left, top, w, h] = scan.boxes[axis];
    const at = [(event.offsetX * ratio - left) / w, (event.offsetY * ratio - top) / h];
    if (Math.min(...at) < 0 || Math.max(...at) >= 1) return;
    [across(axis), down(axis)].forEach((one, index) => {
      move(scan, one, Math.floor((one === 0 ? 1 - at[index] : at[index]) * scan.shape[one]));
    });
  }

  // --- the case --------------------------------------------------------------------------------------------------

  function clear() {
    stands.replaceChildren();
    ask.replaceChildren();
    said.textContent = view.textContent = "";
    clearTimeout(late);
    waiting = false;
  }

  function open(message) {
    clear();
    room = { ...message, shown: false, call: null, sure: null };
    title.textContent = room.title;
    place.textContent = room.place;
    [large, active, linked] = [0, 0, true];
    room.scans.forEach((scan, number) => {
      const stand = part("div", stands, "stand");
      Object.assign(scan, { data: new Int16Array(scan.shape.reduce((a, b) => a * b)), images: [], boxes: [], canvases: [] });
      scan.at = scan.shape.map((size) => size >> 1);
      scan.label = part("span", stand, "", scan.name);
      PLANES.forEach((name, axis) => {
        const canvas = part("canvas", stand, axis === 0 ? "large" : "");
        canvas.setAttribute("aria-label", `${scan.name}, ${name}`);
        scan.canvases.push(canvas);
        listen(canvas, scan, number, axis);
      });
    });
    part("span", ask, "", room.question);
    room.buttons = { call: [], sure: [] };
    const button = (text, name, value) => {
      const made = part("button", ask, "", text);
      made.addEventListener("click", () => (choose(name, value), root.focus({ preventScroll: true })));
      room.buttons[name][value] = made;
    };
    button("yes (y)", "call", 1);
    button("no (n)", "call", 0);
    room.confidence.forEach((word, index) => button(`${word} (${(index + 6) % 10})`, "sure", index));
    room.save = part("button", ask, "", "save (Enter)");
    room.save.addEventListener("click", save);
    if (room.back) part("button", ask, "", "back (Backspace)").addEventListener("click", back);
    choose();
    said.textContent = "loading …";
    send("want", { scan: 0, piece: 0 });
    root.focus({ preventScroll: true });
  }

  async function take(message, buffers) {
    if (message.token !== room?.token) return;
    const mine = room, scan = mine.scans[message.scan];
    const last = message.piece + 1 === message.pieces;
    const next = last ? { scan: message.scan + 1, piece: 0 } : { scan: message.scan, piece: message.piece + 1 };
    if (next.scan < mine.scans.length) send("want", next); // it is packed while this one is unpacked
    const stream = new Blob([buffers[0]]).stream().pipeThrough(new DecompressionStream("deflate"));
    const slices = new Int16Array(await new Response(stream).arrayBuffer());
    if (mine !== room) return;
    scan.data.set(slices, message.first * scan.shape[1] * scan.shape[2]);
    mine.loaded = (mine.loaded ?? 0) + 1;
    mine.all = (mine.all ?? 0) + (last ? message.pieces : 0);
    said.textContent = `loading ${message.scan + 1} of ${mine.scans.length}: ${Math.round((100 * (message.piece + 1)) / message.pieces)} %`;
    if (next.scan === mine.scans.length) mine.complete = true;
    if (mine.complete && mine.loaded === mine.all) {
      mine.shown = performance.now();
      said.textContent = "";
      move(mine.scans.at(-1), 0, mine.scans.at(-1).at[0]);
      window_(...mine.presets[0].slice(1));
      choose();
    }
  }

  function choose(name, value) {
    if (name && (!room.shown || waiting || room.truth)) return;
    if (name) room[name] = value;
    for (const one of ["call", "sure"]) {
      room.buttons[one].forEach((button, index) => button.setAttribute("aria-pressed", room[one] === index));
    }
    room.save.disabled = !room.shown || room.call === null || room.sure === null;
  }

  function save() {
    if (waiting || !room.shown) return;
    if (room.truth) {
      waiting = true;
      said.textContent = "The next scan is being read …";
      return send("next");
    }
    if (room.call === null || room.sure === null) {
      said.textContent = "Answer with y or n, and say how sure you are with 6, 7, 8, 9 or 0.";
      return;
    }
    send("answer", { call: room.call, confidence: room.sure, seconds: (performance.now() - room.shown) / 1000 });
    pause("saving …");
  }

  const back = () => room.back && !waiting && (send("back"), pause("going back …"));

  function pause(text) {
    waiting = true;
    said.textContent = text;
    late = setTimeout(() => {
      said.textContent = "Python does not answer. Run the cells of the notebook again: what was saved is kept.";
    }, 15000);
  }

  function press(event) {
    if (!room || event.ctrlKey || event.metaKey || event.altKey) return;
    const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code)?.[1];
    const up = large === 0 ? 1 : -1; // towards the head, or the front, or the right
    const jump = { ArrowUp: up, ArrowDown: -up, PageUp: 10 * up, PageDown: -10 * up, Home: 1e6 * up, End: -1e6 * up }[event.key];
    const plane = { a: 0, c: 1, s: 2 }[event.key.toLowerCase()];
    const call = { y: 1, n: 0 }[event.key.toLowerCase()];
    if (event.key === "Enter") save();
    else if (event.key === "Backspace") back();
    else if (event.key === "f") document.fullscreenElement ? document.exitFullscreen() : root.requestFullscreen();
    else if (!room.shown) return;
    else if (digit >= 1 && digit <= 5) window_(...room.presets[digit - 1].slice(1));
    else if (digit) choose("sure", (Number(digit) + 4) % 10);
    else if (jump) step(jump);
    else if (plane !== undefined) enlarge(plane);
    else if (call !== undefined) choose("call", call);
    else if (event.key === "l") (linked = !linked), draw();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  function hear(message, buffers) {
    if (message.kind === "case") open(message);
    else if (message.kind === "piece") take(message, buffers);
    else if (message.kind === "truth") {
      clearTimeout(late);
      room.truth = true;
      waiting = false;
      said.textContent = `${message.text} Go on with Enter.`;
    } else if (message.kind === "saved") {
      clearTimeout(late);
      said.textContent = "Saved. The next scan is being read …";
    } else if (message.kind === "error") {
      clearTimeout(late);
      waiting = false;
      said.textContent = message.text;
    } else if (message.kind === "end") {
      clear();
      room = null;
      title.textContent = message.text;
      place.textContent = "";
    }
  }

  model.on("msg:custom", hear);
  root.addEventListener("keydown", press);
  const resized = new ResizeObserver(draw);
  resized.observe(root);
  said.textContent = "The scan is being read …";
  send("ready");
  return () => {
    model.off("msg:custom", hear);
    resized.disconnect();
    clearTimeout(late);
  };
}

export default { render };
