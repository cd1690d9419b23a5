"""How the page looks, light and dark: shades of enough contrast, and the machine's own fonts."""

from __future__ import annotations

import gradio as gr

from epalm.demo.snippets import HERE

CSS = """
.gradio-container { max-width: 1080px !important; margin: 0 auto; }
#pitch h1 { font-size: 1.7rem; margin-bottom: .25rem; }
.answer textarea { font-size: 1.15rem; line-height: 1.5; }
#footer { font-size: .85rem; text-align: center; }
footer .divider { display: none !important; }
#time, #duration, .playback span { color: var(--body-text-color-subdued) !important; }
.status { min-height: 1.5rem; font-size: .9rem; }
.note { font-size: .85rem; }
.dark button[role=tab].selected { color: var(--primary-300); }
.card { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 0; }
.card { font-size: .9rem; }
.card dt { font-weight: 600; }
.card dd { margin: 0; overflow-wrap: anywhere; }
.loading { display: grid; gap: .25rem; font-size: .9rem; }
.loading progress { width: 100%; accent-color: var(--primary-700); }
.meter { display: grid; grid-template-columns: auto 1fr auto; gap: 0 .75rem; align-items: center; }
.meter, .meter p { font-size: .9rem; }
.meter p { grid-column: 1 / -1; margin: 0; }
.meter [role=meter] { height: .6rem; border-radius: .3rem; background: var(--neutral-300); }
.dark .meter [role=meter] { background: var(--neutral-600); }
.meter i { display: block; height: 100%; border-radius: .3rem; background: var(--primary-600); }
.failed { font-weight: 600; }
/* A wide film would widen the page of a phone. */
.film, .frames, .history { contain: inline-size; }
.film video { max-height: 300px; }
/* All but the last button, which clears: trimming would fetch FFmpeg from another server. */
.film .top-panel button:has(~ button) { display: none; }
.frames .grid-wrap { height: auto; min-height: 0; max-height: none; padding: 0; }
.frames .grid-container {
    grid-template: none / repeat(4, minmax(0, 1fr)); grid-auto-rows: auto; gap: .25rem; padding: .25rem;
}
.frames .thumbnail-item { aspect-ratio: auto; }
.frames .caption-label { inset: auto 0 0 auto; padding: 0 .25rem; font-size: .75rem; }
"""

# What Gradio leaves out for those who listen to a page: names of pictures to click, and sentences that are
# read out as they change. The programs' snippets get the page's own address.
JS = """() => {
    const here = 'HERE';
    const all = (selector, change) => document.querySelectorAll(selector).forEach(change);
    const name = () => {
        all('.gallery-item:not([aria-label])', button => {
            const image = button.querySelector('img, video');
            const file = image && decodeURI(image.src).split('/').pop().split('.')[0];
            if (file) button.setAttribute('aria-label', 'Example: ' + file);
        });
        // Its own words are a better name than the hidden one, which they are not part of.
        all(
            ['.upload-container', '.playback', '.thumbnail-item:has(.caption-label)']
                .map(selector => selector + '[aria-label]').join(),
            button => button.removeAttribute('aria-label')
        );
        all('.image-container button:not([aria-label])', b => b.setAttribute('aria-label', 'Enlarge'));
        all('.block.status:not([role])', part => part.setAttribute('role', 'status'));
        all('#snippets code', code => {
            const text = code.textContent;
            if (text.includes(here)) code.textContent = text.replaceAll(here, location.origin);
        });
    };
    name();
    new MutationObserver(name).observe(document.body, {childList: true, subtree: true});
}""".replace("HERE", HERE)


def theme() -> gr.themes.Base:
    """Shades of enough contrast (4.5), and the machine's own fonts, so that no other server is asked."""
    look = gr.themes.Soft(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    )
    return look.set(
        background_fill_primary="*neutral_50",  # `set` forgets this one of Soft's
        color_accent="*primary_700",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
        button_secondary_background_fill_hover_dark="*primary_700",
        checkbox_label_background_fill_selected="*primary_700",
        checkbox_label_background_fill_selected_dark="*primary_700",
        block_label_text_color="*primary_800",
        block_title_text_color="*primary_800",
        block_label_background_fill="*primary_50",
        block_label_background_fill_dark="*primary_700",
        block_title_background_fill="transparent",
        block_title_background_fill_dark="transparent",
        block_info_text_color="*neutral_600",
        body_text_color_subdued="*neutral_600",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
    )
