// The viewer of one scan: a picture until its button is pressed, then NiiVue on data that lie beside the page.
// Classic scripts alone, so that it works from a folder as from a server.
(function () {
  "use strict";
  const box = document.getElementById("viewer");
  const open = box && box.querySelector("button");
  if (!open) return;
  const say = (text) => { box.querySelector("output").textContent = text; };
  const load = (name) => new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = box.dataset.from + name;
    script.onload = done;
    script.onerror = () => failed(new Error(name + " cannot be read"));
    document.head.append(script);
  });
  const ask = (name) => box.querySelector(`[name=${name}]`);
  const ramp = (near, far) => ({ R: [near[0], far[0]], G: [near[1], far[1]], B: [near[2], far[2]], A: [0, 255], I: [0, 255] });
  const GRID = 2, NEVER = 0, IN_3D = 4;
  const FROM = 0.25; // colours begin at this share of their end

  async function start() {
    open.disabled = true;
    say("Loading …");
    if (!document.createElement("canvas").getContext("webgl2")) throw new Error("this browser has no WebGL 2");
    await load("niivue.umd.js");
    await load("scan.js");
    const scan = window.covid3dScan, canvas = box.querySelector("canvas");
    box.querySelector("figure").hidden = true;
    box.querySelectorAll(".screen, fieldset").forEach((part) => { part.hidden = false; });
    const view = new niivue.Niivue({
      isRadiologicalConvention: true, sagittalNoseLeft: true, dragAndDropEnabled: false, isResizeCanvas: true,
      multiplanarLayout: GRID, multiplanarShowRender: NEVER,
      backColor: [0, 0, 0, 1], crosshairColor: [1, 0.9, 0.26, 0.6], crosshairWidth: 0.6, loadingText: "",
      onLocationChange: (at) => {
        const values = at.values.map((one) => one.value);
        const map = values[1 + Number(ask("kind").value)];
        if (map !== undefined) say(`${values[0].toFixed(0)} HU, map ${map.toPrecision(2)} logit a voxel`);
      },
    });
    await view.attachToCanvas(canvas);
    view.addColormap("raises", ramp([244, 165, 130], [178, 24, 43]));
    view.addColormap("lowers", ramp([146, 197, 222], [33, 102, 172]));
    view.addColormap("lesion", { R: [240, 240], G: [228, 228], B: [66, 66], A: [0, 255], I: [0, 255] });
    for (const base64 of [scan.ct, ...scan.maps, scan.lesion]) {
      view.addVolume(await niivue.NVImage.loadFromBase64({ name: "scan.nii.gz", base64 }));
    }
    const ct = view.volumes[0], maps = view.volumes.slice(1, -1), lesion = view.volumes[view.volumes.length - 1];
    ct.colormap = "gray";
    maps.forEach((map, number) => {
      const end = scan.limits[number];
      Object.assign(map, { colormap: "raises", colormapNegative: "lowers" });
      Object.assign(map, { cal_min: FROM * end, cal_max: end, cal_minNeg: -end, cal_maxNeg: -FROM * end });
    });
    Object.assign(lesion, { colormap: "lesion", cal_min: 0.4, cal_max: 1 });
    const draw = () => {
      const planes = Number(ask("planes").value);
      // in 3D air is to be clear, whatever the window of the planes
      const [level, width] = planes === IN_3D ? [40, 400] : ask("window").value.split("/").map(Number);
      Object.assign(ct, { cal_min: level - width / 2, cal_max: level + width / 2 });
      maps.forEach((map, number) => { map.opacity = number === Number(ask("kind").value) ? Number(ask("map").value) : 0; });
      lesion.opacity = ask("lesion").checked ? 0.35 : 0;
      view.setSliceType(planes);
      view.updateGLVolume();
      view.createOnLocationChange();
    };
    box.querySelectorAll("fieldset [name]").forEach((control) => control.addEventListener("input", draw));
    view.scene.crosshairPos = view.mm2frac(scan.at);
    draw();
    open.hidden = true;
    box.dataset.state = "ready";
  }

  open.hidden = false;
  open.addEventListener("click", () => start().catch((error) => {
    box.querySelectorAll(".screen, fieldset").forEach((part) => { part.hidden = true; });
    box.querySelector("figure").hidden = false;
    say("The picture stays: " + error.message + ".");
    box.dataset.state = "failed";
  }));
})();
