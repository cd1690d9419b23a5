"""How the page looks, light and dark: shades of enough contrast, and the machine's own fonts."""

from __future__ import annotations

import gradio as gr

from epalm.demo.snippets import HERE

CSS = """
.gradio-container { max-width: 1120px !important; margin: 0 auto; }
#pitch h1 { font-size: 2rem; letter-spacing: -.02em; margin: .5rem 0 .25rem; }
#pitch p { font-size: 1rem; color: var(--body-text-color-subdued); }
.label-wrap > span { font-weight: 600; }
.answer textarea { font-size: 1.25rem; line-height: 1.5; }
#footer { font-size: .85rem; text-align: center; color: var(--body-text-color-subdued); }
footer .divider { display: none !important; }
#time, #duration, .playback span { color: var(--body-text-color-subdued) !important; }
.status { min-height: 1.5rem; }
.status p { font-size: .875rem; color: var(--body-text-color-subdued); }
.note, .note p { font-size: .875rem; color: var(--body-text-color-subdued); }
.dark button[role=tab].selected { color: var(--primary-300); }
.wide { overflow-x: auto; }
#method svg { display: block; width: 100%; max-width: 720px; height: auto; margin: .5rem auto; }
#method svg { border-radius: 8px; }
.card { font-size: .9rem; }
.card dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; margin: 0 0 1rem; }
.card dt { font-weight: 600; }
.card dd { margin: 0; overflow-wrap: anywhere; }
.card table { border-collapse: collapse; width: 100%; min-width: 34rem; }
.card :is(table, thead, tr, th, td), #snippets :is(table, thead, tr, th, td) { border: 0 !important; }
.card :is(th, td), #snippets :is(th, td) {
    padding: .4rem 1rem .4rem 0 !important; text-align: left; vertical-align: top;
}
.card tbody tr, #snippets tbody tr { border-top: 1px solid var(--border-color-primary) !important; }
.card tbody th, #snippets th, #snippets td { white-space: nowrap; }
.loading { display: grid; gap: .25rem; font-size: .9rem; }
.loading progress { width: 100%; accent-color: var(--primary-700); }
.meter { display: grid; grid-template-columns: auto 1fr auto; gap: .25rem .75rem; align-items: center; }
p.meter { display: block; color: var(--body-text-color-subdued); }
.meter, .meter p { font-size: .875rem; }
.meter p { grid-column: 1 / -1; margin: 0; }
.meter [role=meter] { height: .6rem; border-radius: .3rem; background: var(--neutral-300); }
.dark .meter [role=meter] { background: var(--neutral-600); }
.meter i { display: block; height: 100%; border-radius: .3rem; background: var(--primary-600); }
.failed { font-weight: 600; }
/* A wide film, table or program would widen the page of a phone. */
.film, .frames, .history, .card, .explanation, #snippets { contain: inline-size; }
#snippets .token { color: inherit; background: none; }  /* the library's colours are too faint */
#snippets table { display: block; overflow-x: auto; }
.film video { max-height: 300px; }
/* All but the last button, which clears: trimming would fetch FFmpeg from another server. */
.film .top-panel button:has(~ button) { display: none; }
.frames .grid-wrap, .history .grid-wrap { height: auto; min-height: 0; max-height: none; padding: 0; }
.frames .grid-container {
    grid-template: none / repeat(4, minmax(0, 1fr)); grid-auto-rows: auto; gap: .25rem; padding: .25rem;
}
.history .grid-container {
    grid-template: none / repeat(auto-fill, minmax(8.5rem, 1fr)); grid-auto-rows: auto; gap: .5rem;
}
.frames .thumbnail-item { aspect-ratio: auto; }
.frames .caption-label { inset: auto 0 0 auto; padding: 0 .25rem; font-size: .75rem; }
.history .caption-label { inset: auto 0 0 0; max-width: 100%; border-radius: 0; }
.history .caption-label { padding: .25rem .5rem; font-size: .8rem; }
"""

# What Gradio leaves out for those who listen to a page: names of pictures to click, and sentences that are
# read out as they change; programs that are wide are scrolled with the keyboard. The snippets get the page's
# own address.
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
        all('#snippets :is(pre, table):not([tabindex])', part => part.setAttribute('tabindex', '0'));
        all('.block.status:not([role])', part => part.setAttribute('role', 'status'));
        all('#snippets code', code => {
            const text = code.textContent;
            if (here === location.origin) return;  // writing the same would call this again, for ever
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
