// Sends a file to /v2/predict and says in words what comes back. What comes from a file or a server is only ever text.
"use strict";

const find = id => document.getElementById(id);
const form = find("form"), input = find("file"), drop = find("drop"), ask = find("ask"), stop = find("stop");
const status = find("status"), progress = find("progress"), problem = find("problem"), result = find("result");
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 700, HEIGHT = 180, LEFT = 34, RIGHT = 10, TOP = 10, BOTTOM = 26;
let model = null, request = null, chosen = null;

const percent = value => `${(100 * value).toFixed(value > 0.999 || value < 0.001 ? 2 : value > 0.99 || value < 0.01 ? 1 : 0)} %`;
const megabytes = bytes => `${(bytes / 1048576).toFixed(bytes < 10485760 ? 1 : 0)} MB`;

function element(name, text, ...attributes) {
    const made = document.createElement(name);
    made.textContent = text;
    for (const [key, value] of attributes) made.setAttribute(key, value);
    return made;
}

function tell(title, hint) {
    problem.replaceChildren(element("strong", title), element("div", hint));
}

function choose(file) {
    chosen = file || null;
    problem.replaceChildren();
    ask.disabled = !chosen || request !== null;
    status.textContent = chosen ? `${chosen.name}, ${megabytes(chosen.size)}` : "";
    if (chosen && model && chosen.size > model.limits.upload_bytes) {
        tell("This file is too large.", `At most ${megabytes(model.limits.upload_bytes)} are taken: send a shorter or smaller version.`);
        ask.disabled = true;
    }
}

input.addEventListener("change", () => choose(input.files[0]));
for (const kind of ["dragenter", "dragover"]) {
    drop.addEventListener(kind, event => { event.preventDefault(); drop.classList.add("over"); });
}
for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
drop.addEventListener("drop", event => {
    event.preventDefault();
    if (event.dataTransfer.files.length > 1) tell("Several files were dropped.", "The first one is looked at.");
    input.files = event.dataTransfer.files;
    choose(event.dataTransfer.files[0]);
});
// A file that misses the field must not take the place of the page.
for (const kind of ["dragover", "drop"]) window.addEventListener(kind, event => event.preventDefault());

function busy(on) {
    ask.disabled = on || !chosen;
    stop.hidden = !on;
    progress.hidden = !on;
    if (!on) request = null;
}

form.addEventListener("submit", event => {
    event.preventDefault();
    if (!chosen || request) return;
    problem.replaceChildren();
    result.hidden = true;
    const body = new FormData();
    body.append("file", chosen);
    request = new XMLHttpRequest();
    request.open("POST", `/v2/predict${find("overlay").checked ? "?overlay=true" : ""}`);
    request.responseType = "text";
    request.upload.addEventListener("progress", ({ loaded, total }) => {
        progress.value = loaded / total;
        status.textContent = `sending: ${percent(loaded / total)}`;
    });
    request.upload.addEventListener("load", () => {
        progress.removeAttribute("value");
        status.textContent = "looking at it…";
    });
    const sent = request;
    request.addEventListener("load", () => { busy(false); answered(sent); });
    request.addEventListener("error", () => {
        busy(false);
        status.textContent = "";
        tell("The service does not answer.", "It may have been stopped, or the connection is broken: try again.");
    });
    request.addEventListener("abort", () => { busy(false); status.textContent = "stopped"; });
    busy(true);
    request.send(body);
});
stop.addEventListener("click", () => request && request.abort());

function answered(sent) {
    status.textContent = "";
    let answer;
    try {
        answer = JSON.parse(sent.responseText);
    } catch {
        tell("The service answered in a way that this page does not understand.", `Its status was ${sent.status}.`);
        return;
    }
    if (answer.error) {
        tell(sentence(answer.error.message), sentence(answer.error.hint));
        return;
    }
    show(answer, answer.results[0]);
}

const sentence = text => text && text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?…]$/.test(text) ? "" : ".");

function show(answer, one) {
    const fake = one.class === "FAKE";
    const verdict = find("verdict");
    verdict.textContent = `${fake ? "Called FAKE" : "Called REAL"}: ${one.path}`;
    verdict.className = fake ? "fake" : "real";
    find("sure").textContent = words(answer, one, fake);
    find("meaning").textContent = answer.probability_means || "";
    find("warnings").replaceChildren(...(one.outside || []).map(each => element("p", `Caution: ${each.detail}.`)));
    showFaces(one);
    showTimeline(answer, one);
    showOverlay(one);
    find("raw").textContent = JSON.stringify(answer, null, 2);
    result.hidden = false;
    result.focus();
    status.textContent = `done in ${answer.execution_time.toFixed(1)} seconds: ${fake ? "FAKE" : "REAL"}`;
}

function words(answer, one, fake) {
    if (one.probability === null) {
        return `Its score is ${one.score.toFixed(3)}, and from ${answer.threshold.toFixed(3)} on a file is called fake. ` +
            "This score is no probability: the detector was not calibrated.";
    }
    const told = `The probability that it is fake is ${percent(one.probability)}.`;
    const limit = answer.threshold_probability;
    if (one.tied) return `${told} That is just where FAKE begins, so take neither answer for sure.`;
    const against = fake === one.probability < 0.5;
    return against ? `${told} FAKE begins at ${percent(limit)} with this detector.` : told;
}

function showFaces(one) {
    const faces = one.each_face || [];
    const found = one.faces ? `A face was found in ${one.faces.found} of the ${one.faces.frames} frames looked at.` : "";
    const parts = found ? [element("p", found, ["class", "soft"])] : [];
    if (faces.length > 1) {
        const table = element("table", ""), head = table.createTHead().insertRow(), body = table.createTBody();
        table.createCaption().textContent = "each face";
        for (const name of ["face", "probability of fake", "score", "where"]) head.append(element("th", name, ["scope", "col"]));
        for (const face of faces) {
            const row = body.insertRow(), [x0, y0, x1, y1] = face.box;
            for (const text of [
                String(face.face + 1), face.probability === null ? "unknown" : percent(face.probability), face.score.toFixed(3),
                `around (${Math.round((x0 + x1) / 2)}, ${Math.round((y0 + y1) / 2)}) of frame ${face.frame}`,
            ]) row.insertCell().textContent = text;
        }
        parts.push(table);
    }
    find("faces").replaceChildren(...parts);
}

function drawn(name, attributes, text) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
}

function showTimeline(answer, one) {
    const moments = one.timeline || [];
    find("timeline").hidden = moments.length < 2;
    if (moments.length < 2) return;
    const last = Math.max(...moments.map(each => each.seconds), 0.001);
    const x = seconds => LEFT + (WIDTH - LEFT - RIGHT) * seconds / last;
    const y = score => TOP + (HEIGHT - TOP - BOTTOM) * (1 - score);
    const peak = moments.reduce((high, each) => each.score > high.score ? each : high);
    const told = `The score along the ${last.toFixed(1)} seconds: highest, ${peak.score.toFixed(2)}, at ${peak.seconds.toFixed(1)} seconds; ` +
        `FAKE begins at ${answer.threshold.toFixed(2)}.`;
    find("timeline-caption").textContent = told;
    const chart = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": told });
    for (const score of [0, 0.5, 1]) {
        chart.append(drawn("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: y(score), y2: y(score) }));
        chart.append(drawn("text", { x: 4, y: y(score) + 4 }, String(score)));
    }
    for (const seconds of [0, last / 2, last]) {
        const anchor = seconds === 0 ? "start" : seconds === last ? "end" : "middle";
        chart.append(drawn("text", { x: x(seconds), y: HEIGHT - 6, "text-anchor": anchor }, `${seconds.toFixed(1)} s`));
    }
    chart.append(drawn("line", { class: "threshold", x1: LEFT, x2: WIDTH - RIGHT, y1: y(answer.threshold), y2: y(answer.threshold) }));
    for (const face of new Set(moments.map(each => each.face))) {
        const own = moments.filter(each => each.face === face);
        chart.append(drawn("polyline", { class: "line", points: own.map(each => `${x(each.seconds)},${y(each.score)}`).join(" ") }));
        for (const each of own) chart.append(drawn("circle", { class: "dot", cx: x(each.seconds), cy: y(each.score), r: 3 }));
    }
    find("chart").replaceChildren(chart);
}

function showOverlay(one) {
    const overlay = one.overlay || {}, video = find("video"), still = find("still");
    const picture = /\.(png|jpe?g)$/.test(overlay.url || "");
    find("painted").hidden = !overlay.url;
    find("painted-caption").hidden = Boolean(overlay.note);
    find("painted-why").textContent = overlay.reason ? `No overlay: ${sentence(overlay.reason)}` : sentence(overlay.note || "");
    video.hidden = picture;
    still.hidden = !picture;
    video.removeAttribute("src");
    if (overlay.url) (picture ? still : video).src = overlay.url;
}

fetch("/v2/model").then(reply => reply.json()).then(told => {
    model = told;
    const kinds = told.limits.suffixes.map(suffix => suffix.slice(1)).join(", ");
    find("taken").textContent = `${kinds}; up to ${megabytes(told.limits.upload_bytes)} and ${Math.round(told.limits.duration_seconds / 60)} minutes`;
    find("file").accept = told.limits.suffixes.join(",");
    find("overlay-row").hidden = !told.limits.overlays;
    find("model").textContent = `answered by ${told.name}`;
    if (chosen) choose(chosen);
}).catch(() => tell("The service does not answer.", "It may have been stopped: load this page again."));
