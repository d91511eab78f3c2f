"""Which numbers in the notebooks' prose repeat an output: `test_claims.py` compares them.

A row is (Markdown cell, its words, code cell, the words of its output). In both texts `#` stands for a number that is
compared, in order, and `…` for any text between. Everything else is literal; blanks, line breaks and asterisks do not
count. `01_affinitynet:a46` is an output of another notebook, and `leaderboard:text` is docs/leaderboard.md. Prose may
round a number.
"""

CAM_VAL = "val | … best on train | # |"

REFINED = "| `{0}` | 0, 1, 2 | walk, CRF | … | # ± # |"
BOTH = "| `{0}` | 0, 1, 2 | CAM seed | … | # ± # | … | `{0}` | 0, 1, 2 | CRF | … | # ± # |"
WALKS = "| `{0}` | 0, 1, 2 | walk | … | # ± # | … | `{0}` | 0, 1, 2 | walk, CRF | … | # ± # |"

FINAL = " … | `{0}` | 0, 1, 2 | network, CRF | … | # |"
NETWORK = "| `{0}` | 0, 1, 2 | network | … | # | … | `{0}` | 0, 1, 2 | network, CRF | … | # |"
SEED = "| `{0}` | 0, 1, 2 | CAM seed | … | # ± # |"

CLAIMS: dict[str, list[tuple[str, str, str, str]]] = {
    "README": [
        ("text", "`00_cam` | # ± # | CRF # ± # | # |", "leaderboard:text", (BOTH + FINAL).format("cam")),
        (
            "text",
            "`01_affinitynet` | | walk and CRF # ± # | # |",
            "leaderboard:text",
            (REFINED + FINAL).format("affinitynet"),
        ),
        ("text", "`01b_irn` | | walk and CRF # ± # | # |", "leaderboard:text", (REFINED + FINAL).format("irn")),
        ("text", "`02_oc_cse` | # ± # | CRF # ± # | # |", "leaderboard:text", (BOTH + FINAL).format("oc-cse")),
        ("text", "`03_acr` | # ± # | CRF # ± # | # |", "leaderboard:text", (BOTH + FINAL).format("acr")),
        ("text", "small transformer) | # ± # |", "leaderboard:text", SEED.format("pcss")),
        ("text", "(from random weights) | # ± # | CRF # ± # | # |", "leaderboard:text", (BOTH + FINAL).format("msal")),
    ],
    "results": [
        *(
            ("text", f"`{name}` | {masks} | # | # |", "leaderboard:text", NETWORK.format(entry))
            for name, entry, masks in (
                ("00_cam", "cam", "54.2 (CRF, α = 16)"),
                ("01_affinitynet", "affinitynet", "57.3 (walk, CRF)"),
                ("01b_irn", "irn", "59.7 (walk, CRF)"),
                ("02_oc_cse", "oc-cse", "56.7 (CRF, α = 10)"),
                ("03_acr", "acr", "48.2 (CRF, α = 24)"),
                ("05_msal", "msal", "38.6 (CRF, α = 32)"),
            )
        ),
        *(
            ("text", f"`{name} | # ± # | # ± # |", "leaderboard:text", BOTH.format(entry))
            for name, entry in (
                ("00_cam`", "cam"),
                ("00_cam` from random weights", "cam-scratch"),
                ("02_oc_cse`, control", "oc-cse-without-erasing"),
                ("02_oc_cse`", "oc-cse"),
                ("03_acr`, control", "acr-no-adversary"),
                ("03_acr`", "acr"),
                ("04_pcss`, control, in a world with a strong shortcut", "pcss-neither"),
                ("04_pcss`, in the same world", "pcss"),
                ("05_msal`, control, from random weights", "msal-plain"),
                ("05_msal`, from random weights", "msal"),
            )
        ),
    ],
    "00_cam": [
        ("c00", "| # % (over three trainings", "c32", CAM_VAL),
        ("c00", "trainings # ± # %)", "leaderboard:text", SEED.format("cam")),
        ("c38", "falls from # % to # % with one view", "c37", "all steps best mIoU # % one view best mIoU #"),
        ("c38", "to # % with one maximum", "c37", "one view, one maximum best mIoU #"),
        ("c38", "to # % without rectification", "c37", "one view, not rectified best mIoU #"),
        ("c40", "share of its area, # %", "c39", "of the peaks, #% of the area"),
        ("c40", "It gets # % of the activation and # %", "c39", "part #% of the activation, #% of the peaks"),
    ],
    "01_affinitynet": [
        ("a00", "| # → # %, then CRF", "a46", "| CAM seed, … | … | # | … random walk | … | # |"),
        ("a00", "then CRF # % (three", "a46", "then CRF | … | # |"),
        ("a00", "seeds: # ± # →", "leaderboard:text", SEED.format("cam")),
        ("a00", "→ # ± # %, then CRF # ± # %)", "leaderboard:text", WALKS.format("affinitynet")),
        ("a49", "seeds | … | … | # ± # | # ± # |", "leaderboard:text", WALKS.format("affinitynet")),
        ("a25", "and # in the small network", "a26", "features (#,"),
        ("a43", "from # % without a walk to # %", "a42", "no walk mIoU # % … learned affinities mIoU # %"),
        ("a43", "to # % with colours", "a42", "affinities of colours mIoU # %"),
        ("a43", "and to # % if all", "a42", "all affinities equal mIoU # %"),
        ("a49", "# on average within a class, and # between", "a32", "same class #, different classes #"),
    ],
    "01b_irn": [
        ("b00", "`train` | # → # %, then CRF # %", "b40", "0.14 | # | … | walk | # | … then CRF | # |"),
        ("b00", "`val` | # → # %, then CRF # %", "b40", "0.14 | … | # | … | walk | … | # | … then CRF | … | # |"),
        ("b39", "falls from # to # %. With", "b38", "no walk mIoU # % no boundaries mIoU # %"),
        ("b39", "only, it is # %", "b38", "only mIoU # %"),
        ("b39", "it rises to # %", "b38", "path mIoU # %"),
        ("b39", "lowers* the mIoU to # %", "b38", "on boundaries mIoU # %"),
        ("b39", "shows that # % of the *confident object", "b12", "object: right in #%"),
        ("b39", "CAM seed itself, # (section 1)", "b06", "train | # | best on train"),
        ("b43", "CAM seed | # / # | # / # |", "b40", "0.14 | # | # | … | CRF, α = 16 | # | # |"),
        ("b43", "AffinityNet's walk | # / # | # / # |", "01_affinitynet:a46", "walk | # | # | … then CRF | # | # |"),
        ("b43", "IRN's walk | # / # | # / # |", "b40", "| walk | # | # | … then CRF | # | # |"),
        ("b43", "AffinityNet has # ± # %", "leaderboard:text", "| `affinitynet` | 0, 1, 2 | walk, CRF | … | # ± # |"),
        ("b43", "and IRN # ± # %", "leaderboard:text", "| `irn` | 0, 1, 2 | walk, CRF | … | # ± # |"),
        ("b43", "the CAM seed (… instead of # %), and", "b40", "| CAM seed, … | … | … | # |"),
        ("b43", "than the CAM seed (# instead of", "b40", "| walk | … | … | # |"),
        ("b43", "higher recall (# instead of", "b40", "| walk | … | … | … | # |"),
        ("b43", "higher recall (… instead of # %)", "b40", "| CAM seed, … | … | … | … | # |"),
        ("b50", "Both find only # of # objects", "b49", "displacements: # of # objects"),
        ("b50", "Both find only # of # objects", "b49", "areas of the mask: # of # objects"),
    ],
    "02_oc_cse": [
        ("cell-00", "| # → # % (three", "cell-29", "ordinary classifier | … | # | … OC-CSE | … | # |"),
        ("cell-30", "falls from # % to # %", "cell-23", "nothing erased … target #%, … ordinary map … target #%"),
        ("cell-30", "and to # % with the erasing", "cell-23", "erasing network … target #%"),
        ("cell-30", "the object: # % of the body", "cell-29", "OC-CSE | … | … | … | … | # |"),
        ("cell-30", "of the body instead of # %", "cell-29", "without erasing | … | … | … | … | # |"),
        ("cell-30", "without erasing | # ± # |", "leaderboard:text", SEED.format("oc-cse-without-erasing")),
        ("cell-30", "| OC-CSE | # ± # |", "leaderboard:text", SEED.format("oc-cse")),
        ("cell-30", "shows the price: # % instead of", "cell-29", "OC-CSE | … | … | … | … | … | # |"),
        ("cell-30", "shows the price: … instead of # %", "cell-29", "without erasing | … | … | … | … | … | # |"),
    ],
    "03_acr": [
        ("cell-00", "| # → # % (three", "cell-28", "ordinary classifier | … | # | … ACR | … | # |"),
        ("cell-00", "seeds: # ± # →", "leaderboard:text", SEED.format("cam")),
        ("cell-00", "→ # ± # %)", "leaderboard:text", SEED.format("acr")),
        ("cell-29", "ACR has # %", "cell-28", "ACR | … | # |"),
        ("cell-29", "start from has # %", "cell-28", "ordinary classifier | … | # |"),
        ("cell-29", "an adversary has # %", "cell-28", "no adversary | … | # |"),
    ],
    "04_pcss": [
        ("pcss00", "| # → # % (with the shortcut", "pcss30", "neither | … | # | … PCSS | … | # |"),
        ("pcss00", "(with the shortcut # → # %)", "pcss30", "neither | # | … PCSS | # |"),
        ("pcss00", "| # → # % (three", "pcss28", "neither | … | # | … PCSS | … | # |"),
        ("pcss00", "seeds: # ± # →", "leaderboard:text", SEED.format("pcss-neither")),
        ("pcss00", "→ # ± # %)", "leaderboard:text", SEED.format("pcss")),
        ("pcss31", "mAP is # % with it and # % without", "pcss30", "neither | # | # |"),
        ("pcss31", "(# % with the shortcut and # % without", "pcss30", "PCSS | # | # |"),
        ("pcss31", "on `val` is # %", "pcss28", "PCSS | … | # |"),
        ("pcss31", "and # % without both parts", "pcss28", "neither | … | # |"),
    ],
    "05_msal": [
        ("msal00", "| # → # % (three", "msal33", "plain | … | # | … MSAL | … | # |"),
        ("msal00", "seeds: # ± # →", "leaderboard:text", SEED.format("msal-plain")),
        ("msal00", "→ # ± # %)", "leaderboard:text", SEED.format("msal")),
        ("msal00", "boundaries | # → # %", "msal33", "plain | … | … | # | … MSAL | … | … | # |"),
        ("msal15", "boundaries (# % of them)", "msal14", "superpixel network | … | # |"),
        ("msal15", "of squares (# and # %)", "msal14", "superpixel network | # | … squares | # |"),
        ("msal15", "is best (# %)", "msal14", "SLIC | # |"),
        ("msal34", "MSAL has # % on `val`", "msal33", "MSAL | … | # |"),
        ("msal34", "plain network # %", "msal33", "plain | … | # |"),
        ("msal34", "lower the mIoU to # %", "msal33", "AP at inference | … | # |"),
        ("msal34", "the maps reach # %", "msal33", "not along superpixels | … | # |"),
    ],
    "06_compare": [
        ("cmp06", "`02_oc_cse` (# %) are the best", "cmp05", "`02_oc_cse` | 3 | # ±"),
        ("cmp06", "after it, `02_oc_cse` (# %)", "cmp05", "`02_oc_cse` | 3 | … | # ±"),
        ("cmp06", "`01_affinitynet` (# %)", "cmp05", "`01_affinitynet` | 3 | … | … | … | # ±"),
        ("cmp06", "`01b_irn` (# %)", "cmp05", "`01b_irn` | 3 | … | … | … | # ±"),
    ],
    "07_use": [
        ("c00", "without labels | # %", "c08", "val: # %"),
        ("c00", "error on `val` | # %", "c25", "error: # %"),
        ("c27", "wrong by # points", "c25", "error: # %"),
        ("c30", "says # % for the quarter", "c29", "most certain quarter: confidence # %"),
        ("c30", "and # % of its pixels", "c29", "most certain … right pixels # %"),
        ("c30", "than the # % in the quarter", "c29", "least certain … right pixels # %"),
        ("c32", "Plain grey is background, with a confidence of #", "c31", "plain grey confidence #, no class"),
        (
            "c32",
            "Noise has a confidence of #, and the network sees a dog in # %",
            "c31",
            "noise confidence #, … dog in #%",
        ),
        (
            "c32",
            "twice its size the confidence is #, but only # % of the pixels are sailboat",
            "c31",
            "twice the size confidence #, sailboat in #%",
        ),
    ],
}
