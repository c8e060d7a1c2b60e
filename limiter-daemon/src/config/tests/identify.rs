// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of the section `[identify]`: mistakes in sources.

use super::*;

#[test]
fn mistakes_in_sources_are_reported() {
    assert_each_is_the_only_problem(&[
        ("[identify]\nsources = []\n", "`identify.sources` is empty"),
        (
            "[identify]\nsources = [\"bearer\", \"bearer\"]\n",
            "f.toml:5:22: `identify.sources[1]`: the source bearer is given twice",
        ),
        (
            "[identify]\nsources = [\"header:X-Key\", \"header:x_key\"]\n",
            "is given twice",
        ),
        (
            "[identify]\nsources = [\"header:a\", \"header:b\", \"header:c\", \"header:d\", \"header:e\"]\n",
            "`identify.sources[4]`: there are at most 4 header sources",
        ),
        (
            "[identify]\nsources = [\"header:x y\"]\n",
            "`x y` is not the name of a header field",
        ),
        (
            "[identify]\nsources = [\"header:authorization\"]\n",
            "is not a source: use \"bearer\", \"basic\" or \"basic-user\"",
        ),
        (
            "[identify]\nsources = [\"header:content-length\"]\n",
            "frames the message",
        ),
        (
            "[identify]\nsources = [\"baerer\"]\n",
            "is not a source: use \"header:NAME\", \"bearer\", \"basic\" or \"basic-user\" (did you \
             mean `bearer`?)",
        ),
        (
            "[identify]\nsources = [\"basic_user\"]\n",
            "(did you mean `basic-user`?)",
        ),
        (
            "[identify]\nsources = [\"header:content.length\"]\n",
            "frames the message",
        ),
        (
            "[identify]\nsources = [\"header:x-key\", \"header:x.key\"]\n",
            "the source header:x.key is given twice",
        ),
    ]);
}
