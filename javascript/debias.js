// Below the pictures of "Debias: audit and calibrate": the report's address becomes a link, the figures fold, and new
// profiles and checks appear in the lists of them.
(function () {
    const OURS = /^\/sd-debias\/report\/[^/]+(\/labels\.html)?$/;
    const OPEN = "Open the report: ", LOOK = "Look at the pictures and their labels: ", DETAILS = "Details:", TABS = ["txt2img", "img2img"], known = new Set();
    const BUTTONS = ["debias_refresh", "debias_audit_and_calibrate_refresh_checks"];

    function renew() {
        for (const tab of TABS)
            for (const button of BUTTONS) gradioApp().querySelector(`#script_${tab}_${button}`)?.click();
    }

    function linked(paragraph) {
        const said = paragraph.textContent;  // comes again when another picture was looked at
        for (const node of [...paragraph.childNodes]) {
            const text = node.nodeType === Node.TEXT_NODE ? node.textContent.trim() : "";
            const words = [OPEN, LOOK].find((some) => text.startsWith(some));
            if (words && OURS.test(text.slice(words.length))) {  // a prompt may say those words, too
                const address = text.slice(words.length), link = document.createElement("a");
                // Relative: a host may stand below a path of its own.
                Object.assign(link, { href: address.split("/").map(encodeURIComponent).join("/").replace(/^\//, ""),
                    target: "_blank", rel: "noopener", textContent: words.replace(": ", "") });
                node.replaceWith(link);
                if (!known.has(said)) renew();
                known.add(said);
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

    // The page is as it was when the server started; its buttons answer once they all are there.
    onUiLoaded(() => setTimeout(renew));
    onAfterUiUpdate(() => {
        for (const tab of TABS)
            gradioApp().querySelectorAll(`#html_info_${tab} p`).forEach(linked);
    });
})();
