// Below the images of "Debias: audit and calibrate": the report's address becomes a link, the figures fold, and new
// profiles and checks appear in the lists of them.
(function () {
    const OURS = /^\/sd-debias\/report\/[^/]+(\/labels\.html)?$/;
    const OPEN = "Open the report: ", LOOK = "Look at the images and their labels: ", DETAILS = "Details:", TABS = ["txt2img", "img2img"], known = new Set();
    const BUTTONS = ["debias_refresh", "debias_audit_and_calibrate_refresh_checks"];

    function renew() {
        for (const tab of TABS)
            for (const button of BUTTONS) gradioApp().querySelector(`#script_${tab}_${button}`)?.click();
    }

    function linked(paragraph) {
        const said = paragraph.textContent;  // comes again when another image was looked at
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

    // Below the accordion: the script with the same attributes, ready for a judge and a name.
    window.debiasCalibrate = function (attributes) {
        const tab = gradioApp().querySelector("#tab_img2img")?.style.display === "block" ? "img2img" : "txt2img";
        const within = gradioApp().querySelector(`#${tab}_script_container`) ?? gradioApp();
        const own = (name) => gradioApp().querySelector(`#script_${tab}_debias_audit_and_calibrate_${name}`);
        const choose = (list, word, then) => {
            const input = list?.querySelector("input");
            input?.focus();
            setTimeout(() => {
                const item = [...(list?.querySelectorAll("ul li") ?? [])].find((one) => one.textContent.includes(word));
                item?.dispatchEvent(new MouseEvent("mousedown", { bubbles: true }));
                input?.blur();
                setTimeout(then, 300);
            }, 300);
        };
        choose(within.querySelector("#script_list"), "Debias: audit and calibrate", () =>
            choose(own("work"), "calibrate", () => {
                // The list's own choice would be calibrated too.
                [...(own("attributes")?.querySelectorAll(".token-remove:not(.remove-all)") ?? [])].forEach((one) => one.click());
                const text = own("own")?.querySelector("textarea");
                if (text) { text.value = attributes; text.dispatchEvent(new Event("input", { bubbles: true })); }
                own("name")?.scrollIntoView({ block: "center" });
            }));
        return [];
    };

    // The page is as it was when the server started; its buttons answer once they all are there.
    onUiLoaded(() => setTimeout(renew));
    onAfterUiUpdate(() => {
        for (const tab of TABS)
            gradioApp().querySelectorAll(`#html_info_${tab} p`).forEach(linked);
    });
})();
