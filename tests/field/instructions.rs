//! Texts that are given as an instruction.

use super::program::{Input, Should, check};

/// Ids of OpenVLA's prompt around the ids of a task.
fn prompt(task: &[u32]) -> Vec<u32> {
    let before = [1, 512, 29901, 1724, 3158, 881, 278, 19964, 2125, 304];
    [&before[..], task, &[13, 3744, 29901, 29871]].concat()
}

#[test]
fn white_space_and_the_template_are_taken_off() {
    let act = |name, text, remark| Input::instruction(name, text, Should::Act(remark));
    let taken = "the prompt template around the instruction was taken off";
    let refuse = |name, text, parts| Input::instruction(name, text, Should::Refuse(parts));
    check(&[
        act("spaces_around", "  pick up the block  ", ""),
        act("line_break_behind", "pick up the block\n", ""),
        act("windows_line_break", "pick up the block\r\n", ""),
        act("line_break_before", "\npick up the block", ""),
        act("tab_before", "\tpick up the block", ""),
        act("no_break_space_around", "\u{a0}pick up the block\u{a0}", ""),
        act("line_separator_behind", "pick up the block\u{2028}", ""),
        act("upper_case", "Pick Up The BLOCK", ""),
        act("template", "In: What action should the robot take to pick up the block?", taken),
        act(
            "template_whole",
            "In: What action should the robot take to pick up the block?\nOut:",
            taken,
        ),
        act("template_question", "What action should the robot take to pick up the block?", taken),
        act(
            "template_vicuna",
            "USER: What action should the robot take to pick up the block? ASSISTANT:",
            taken,
        ),
        refuse("template_in", "In: pick up the block", &["contains \"In:\""]),
        refuse("template_out", "pick up the block\nOut:", &["contains \"Out:\""]),
        refuse(
            "template_doubled",
            "In: What action should the robot take to what action should the robot take to go?",
            &["contains \"What action should the robot take to\""],
        ),
    ]);
}

#[test]
fn invisible_characters_are_named() {
    let refuse = |name, text, parts| Input::instruction(name, text, Should::Refuse(parts));
    check(&[
        refuse("zero_width_space", "pick\u{200b} up the block", &["zero width space"]),
        refuse("zero_width_joiner", "pick up the\u{200d} block", &["zero width joiner"]),
        refuse("byte_order_mark_text", "\u{feff}pick up the block", &["byte order mark"]),
        refuse("soft_hyphen", "pick up the blo\u{ad}ck", &["soft hyphen"]),
        refuse("right_to_left", "pick up \u{202e}the block", &["direction of writing"]),
        refuse("tag_characters", "pick up the block\u{e0041}", &["tag character"]),
        refuse("line_separator", "pick up\u{2028}the block", &["line separator"]),
        refuse("no_break_space", "pick up\u{a0}the block", &["no-break space"]),
        refuse("narrow_space", "pick up\u{2009}the block", &["space of another width"]),
        refuse("tokenizer_space", "pick▁up the block", &["the tokenizer's mark of a space"]),
        refuse("replacement_character", "pick up the caf\u{fffd}", &["the text was damaged"]),
        refuse("private_use", "pick up the block \u{f04b}", &["private use"]),
        refuse("escape_sequence", "pick up the block\\n", &["the escape sequence"]),
        refuse("tab_inside", "pick up\tthe block", &["the control character"]),
        refuse("object_place", "pick up the \u{fffc}block", &["object that was not copied"]),
        refuse("variation_selector", "pick up the block\u{fe0f}", &["variation selector"]),
        refuse("invisible_vowel", "pick up the block\u{17b5}", &["invisible vowel"]),
        refuse("only_invisible", "\u{200b}", &["zero width space"]),
    ]);
}

#[test]
fn sound_texts_in_other_scripts_are_read_without_remark() {
    let read =
        |name, text, task: &[u32]| Input::instruction(name, text, Should::Read(prompt(task), ""));
    check(&[
        read("emoji", "pick up the \u{1f34e}", &[5839, 701, 278, 29871, 243, 162, 144, 145, 29973]),
        read(
            "emoji_with_joiner",
            "greet the \u{1f469}\u{200d}\u{1f373}",
            &[1395, 300, 278, 29871, 243, 162, 148, 172, 30722, 243, 162, 144, 182, 29973],
        ),
        read(
            "chinese",
            "\u{62ff}\u{8d77}\u{65b9}\u{5757}",
            &[29871, 233, 142, 194, 31558, 30525, 232, 160, 154, 29973],
        ),
        read(
            "persian_with_non_joiner",
            "\u{628}\u{644}\u{648}\u{6a9} \u{631}\u{627} \
            \u{645}\u{6cc}\u{200c}\u{628}\u{631}\u{62f}",
            &[
                29871, 30177, 30138, 30171, 30343, 29871, 30156, 30112, 29871, 30159, 30202, 30430,
                30177, 30156, 30172, 29973,
            ],
        ),
    ]);
}

#[test]
fn other_texts_are_passed_on_and_remarked() {
    let read = |name, text, task: &[u32], remark| {
        Input::instruction(name, text, Should::Read(prompt(task), remark))
    };
    let (pick, end) = ([5839, 701, 278, 2908], 29973);
    check(&[
        // `</s>` as text: "</", "s", ">".
        read(
            "end_token",
            "pick up </s> the block",
            &[5839, 701, 1533, 29879, 29958, 278, 2908, end],
            "</s> in the instruction is read as plain text",
        ),
        read(
            "pad_token",
            "pick up the block <PAD>",
            &[5839, 701, 278, 2908, 529, 8305, 29958, end],
            "is read as plain text",
        ),
        read(
            "begin_token",
            "pick up the <s> block",
            &[5839, 701, 278, 529, 29879, 29958, 2908, end],
            "<s> in the instruction is read as plain text",
        ),
        read(
            "dot",
            "pick up the block.",
            &[&pick[..], &[29889, 29973]].concat(),
            "the instruction ends with '.'",
        ),
        read(
            "question_mark",
            "pick up the block?",
            &[5839, 701, 278, 2908, 8773],
            "the instruction ends with '?'",
        ),
        read(
            "in_quotation_marks",
            "\"pick up the block\"",
            &[376, 23945, 701, 278, 2908, 8652],
            "the instruction is in quotation marks",
        ),
        read(
            "underscores",
            "pick_up_the_block",
            &[5839, 29918, 786, 29918, 1552, 29918, 1271, end],
            "joined by underscores",
        ),
        read(
            "double_space",
            "pick up  the block",
            &[5839, 701, 29871, 278, 2908, end],
            "two spaces follow each other",
        ),
        read(
            "cyrillic_letter",
            "pick up the bl\u{43e}ck",
            &[5839, 701, 278, 1999, 29904, 384, end],
            "(U+043E) within a word of Latin letters",
        ),
        read(
            "full_width_letter",
            "pick up the \u{ff22}lock",
            &[5839, 701, 278, 29871, 242, 192, 133, 908, end],
            "(U+FF22) within a word of Latin letters",
        ),
        read(
            "decomposed_letter",
            "pick up the cafe\u{301}",
            &[5839, 701, 278, 5777, 1725, 30103, end],
            "a combining mark (U+0301)",
        ),
        read(
            "message_text",
            "data: pick up the block",
            &[848, 29901, 5839, 701, 278, 2908, end],
            "begins with \"data:\"",
        ),
        read(
            "json_text",
            "{\"task\": \"pick up the block\"}",
            &[8853, 7662, 1115, 376, 23945, 701, 278, 2908, 9092, end],
            "begins with \"{\"",
        ),
    ]);
}

#[test]
fn texts_that_other_programs_changed_are_remarked() {
    let read = |name, text, task: &[u32], remark| {
        let task = [task, &[29973]].concat();
        Input::instruction(name, text, Should::Read(prompt(&task), remark))
    };
    check(&[
        read(
            "ligature",
            "pick up the \u{fb01}le",
            &[5839, 701, 278, 29871, 31017, 280],
            "(U+FB01)",
        ),
        read(
            "full_width_word",
            "\u{ff50}\u{ff49}\u{ff43}\u{ff4b} up the block",
            &[29871, 242, 192, 147, 242, 192, 140, 242, 192, 134, 242, 192, 142, 701, 278, 2908],
            "(U+FF50)",
        ),
        read(
            "letters_of_mathematics",
            "\u{1d429}\u{1d422}\u{1d41c}\u{1d424} up the block",
            &[
                29871, 243, 160, 147, 172, 243, 160, 147, 165, 243, 160, 147, 159, 243, 160, 147,
                167, 701, 278, 2908,
            ],
            "(U+1D429)",
        ),
        read(
            "typographic_apostrophe",
            "don\u{2019}t drop the block",
            &[1016, 30010, 29873, 5768, 278, 2908],
            "(U+2019)",
        ),
        read("dash", "pick up \u{2013} then drop", &[5839, 701, 785, 769, 5768], "(U+2013)"),
        read(
            "ellipsis",
            "pick up the block\u{2026}",
            &[5839, 701, 278, 2908, 30098],
            "the instruction ends with '\u{2026}'",
        ),
        read(
            "percent_encoded",
            "pick%20up%20the%20block",
            &[5839, 29995, 29906, 29900, 786, 29995, 29906, 29900, 1552, 29995, 29906, 29900, 1271],
            "contains \"%20\"",
        ),
        read(
            "html_entity",
            "pick&nbsp;up the block",
            &[5839, 29987, 14239, 29936, 786, 278, 2908],
            "contains \"&nbsp;\"",
        ),
        read(
            "wrong_encoding",
            "pick up the caf\u{c3}\u{a9}",
            &[5839, 701, 278, 274, 2142, 30033, 30211],
            "UTF-8 that was read in another encoding",
        ),
    ]);
}

#[test]
fn texts_of_lists_templates_and_identifiers_are_remarked() {
    let read = |name, text, task: &[u32], remark| {
        let task = [task, &[29973]].concat();
        Input::instruction(name, text, Should::Read(prompt(&task), remark))
    };
    let pick = [5839, 701, 278];
    check(&[
        read(
            "plus_signs",
            "pick+up+the+block",
            &[5839, 29974, 786, 29974, 1552, 29974, 1271],
            "joined by plus signs",
        ),
        read(
            "hyphens",
            "pick-up-the-block",
            &[5839, 29899, 786, 29899, 1552, 29899, 1271],
            "joined by hyphens",
        ),
        read("capital_letters", "pickUpTheBlock", &[5839, 21245, 354, 1271], "capital letters"),
        read(
            "list_mark",
            "- pick up the block",
            &[448, 5839, 701, 278, 2908],
            "begins with \"- \"",
        ),
        read(
            "numbered",
            "1. pick up the block",
            &[29871, 29896, 29889, 5839, 701, 278, 2908],
            "begins with \"1.\"",
        ),
        read(
            "placeholder_braces",
            "pick up the {object}",
            &[&pick[..], &[426, 3318, 29913]].concat(),
            "contains \"{object}\"",
        ),
        read(
            "placeholder_angle",
            "pick up the <object>",
            &[&pick[..], &[529, 3318, 29958]].concat(),
            "contains \"<object>\"",
        ),
        read(
            "placeholder_dollar",
            "pick up the $OBJECT",
            &[&pick[..], &[395, 3318]].concat(),
            "contains \"$OBJECT\"",
        ),
    ]);
}
