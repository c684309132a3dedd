// Below the pictures of "Debias: calibrate (IDA)": the report's address becomes a link, the figures fold, and the new
// profile is put into the accordion's list.
(function () {
    const OURS = /^\/sd-debias\/report\/[^/]+(\/labels\.html)?$/;
    const OPEN = "Open the report: ", LOOK = "Look at the pictures and their labels: ", DETAILS = "Details:", TABS = ["txt2img", "img2img"], known = new Set();

    function linked(paragraph) {
        for (const node of [...paragraph.childNodes]) {
            const text = node.nodeType === Node.TEXT_NODE ? node.textContent.trim() : "";
            const words = [OPEN, LOOK].find((some) => text.startsWith(some));
            if (words && OURS.test(text.slice(words.length))) {  // a prompt may say those words, too
                const address = text.slice(words.length), link = document.createElement("a");
                // Relative: a host may stand below a path of its own.
                Object.assign(link, { href: address.split("/").map(encodeURIComponent).join("/").replace(/^\//, ""),
                    target: "_blank", rel: "noopener", textContent: words.replace(": ", "") });
                node.replaceWith(link);
                if (words === OPEN && !known.has(address)) {
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
