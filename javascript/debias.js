// Below the pictures of "Debias: calibrate (IDA)": the report's address becomes a link, the figures fold, and the new
// profile is put into the accordion's list.
(function () {
    const OPEN = "Open the report: ", DETAILS = "Details:", TABS = ["txt2img", "img2img"], known = new Set();

    function linked(paragraph) {
        for (const node of [...paragraph.childNodes]) {
            const text = node.nodeType === Node.TEXT_NODE ? node.textContent.trim() : "";
            if (text.startsWith(OPEN)) {
                const address = text.slice(OPEN.length), link = document.createElement("a");
                // Relative: a host may stand below a path of its own.
                Object.assign(link, { href: address.split("/").map(encodeURIComponent).join("/").replace(/^\//, ""),
                    target: "_blank", rel: "noopener", textContent: "Open the report" });
                node.replaceWith(link);
                if (!known.has(address)) {
                    known.add(address);
                    for (const each of TABS) gradioApp().querySelector(`#script_${each}_debias_refresh`)?.click();
                }
            } else if (text === DETAILS) {
                const details = document.createElement("details"), summary = document.createElement("summary");
                summary.textContent = "Details";
                details.append(summary);
                while (node.nextSibling) details.append(node.nextSibling);
                node.replaceWith(details);
                return;
            }
        }
    }

    onAfterUiUpdate(() => {
        for (const tab of TABS)
            gradioApp().querySelectorAll(`#html_info_${tab} p`).forEach(linked);
    });
})();
