use super::sample::{about, everything, in_l2, plain, withheld};
use super::*;

/// Every element is closed in order, nothing is loaded, and no text breaks out.
fn well_formed(page: &str) {
    const VOID: [&str; 4] = ["meta", "img", "col", "br"];
    let mut open: Vec<&str> = Vec::new();
    let body = &page[page.find("<head>").unwrap()..page.rfind("</html>").unwrap()];
    for part in body.split('<').skip(1) {
        let (tag, _) = part.split_once('>').unwrap_or_else(|| panic!("<{part} has no end"));
        let name = tag.trim_start_matches('/').split([' ', '\n', '/']).next().unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "</{name}> closes another");
        } else if !tag.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?} are open");
    for part in
        ["<script", "<small>", "<&", "'runs/x", "<f16>", "<link", "url(", "@import", "NaN", "inf ", "{{", "undefined"]
    {
        assert!(!page.contains(part), "{part} is there");
    }
    assert_eq!(page.matches("http").count(), page.matches("http://www.w3.org/2000/svg").count());
    let sources: Vec<&str> = page.split("src=\"").skip(1).collect();
    assert!(sources.iter().all(|source| source.starts_with("data:image/png;base64,")));
    assert_eq!(page.matches("<img").count(), page.matches(" alt=\"").count());
    let count = |what: &str| page.matches(what).count();
    assert_eq!(count("<svg"), count("<svg role=\"img\" aria-label=") + count("<svg class=\"bar\""));
}

/// Accuracies in the form that the page has them in.
fn shown(rate: Rate) -> String {
    format!("{:.1} %", 100.0 * rate.accuracy)
}

#[test]
fn a_page_with_everything_is_whole_and_escaped() {
    let assessment = everything();
    let page = page(&assessment, &about()).unwrap();
    well_formed(&page);
    let robust = assessment.evaluation.attacks[9].rate;
    let (number, interval) = (shown(robust), format!("{:.1} – {:.1}", 100.0 * robust.low, 100.0 * robust.high));
    for part in [
        "<title>Robustness of cf-amc-ssl &lt;small&gt;</title>",
        "L∞ 8&#x2f;255",
        &number,
        &interval,
        "6 checks PASS, 1 WARN, 0 FAIL",
        "▲</span>WARN",
        "✓</span>PASS",
        "with more steps the accuracy would go on falling",
        "transfer from resnet-18-standard",
        "any colour",
        "mean of 75",
        "truck &lt;&amp;&quot;&gt;",
        "gaussian noise",
        "over 16 crops",
        "points less than the 58.8\u{a0}%",
        "half precision &lt;f16&gt;",
        "&#x27;runs&#x2f;x &amp; y&#x27;",
        "2 warnings</a>",
    ] {
        assert!(page.contains(part), "{part} is not there");
    }
    for part in ["Withheld", "withheld</b>", "NOT EXAMINED", "FAIL</span>"] {
        assert!(!page.contains(part), "{part} is there");
    }
    assert_eq!(page.matches("<svg role=\"img\"").count(), 2);
    assert_eq!(page.matches("<img").count(), 12);
    // The headline comes first, then the checks, the rows, the curves.
    let places: Vec<usize> = [
        &*number,
        "believed?",
        "Everything measured",
        "Accuracy against",
        "each class",
        "Common",
        "over 16",
        "does to an",
        ">Warnings",
        "How it",
    ]
    .map(|part| page.find(part).unwrap())
    .to_vec();
    assert!(places.is_sorted(), "{places:?}");
}

#[test]
fn nothing_but_pgd_has_no_other_section() {
    let assessment = plain();
    let page = page(&assessment, &About { bundle: "b".into(), ..About::default() }).unwrap();
    well_formed(&page);
    assert_eq!(page.matches("NOT EXAMINED").count(), 2);
    assert!(page.contains(&shown(assessment.evaluation.attacks[1].rate)) && page.contains("PGD, 20 steps of 0.01"));
    assert!(page.contains("class 3") && page.contains("Accuracy against iterations"));
    for part in ["believed?", "Common corruptions", "The classifier over", "does to an image", "Warnings</h2>", "<pre>"]
    {
        assert!(!page.contains(part), "{part} is there");
    }
}

#[test]
fn a_withheld_number_is_nowhere() {
    let assessment = withheld();
    let page = page(&assessment, &about()).unwrap();
    well_formed(&page);
    let [small, large] = [4, 9].map(|at| assessment.evaluation.attacks[at].rate);
    assert!(page.contains("✗ Withheld") && page.contains("stand PGD-40 at 0.5 (and 1 more)"));
    assert!(page.contains("✗</span>FAIL"));
    assert!(page.contains("The number at L∞ 8&#x2f;255 is withheld"));
    // The other budget passes and keeps its number.
    assert!(page.contains(&shown(small)));
    assert!(!page.contains(&shown(large)), "{} is there", shown(large));
    assert!(!page.contains(&format!("{} of 1\u{202f}000", large.right)));
    assert_eq!(page.matches("<b class=\"withheld\">").count(), 5);
    let legend = &page[page.find("Accuracy of each class").unwrap()..];
    assert!(!legend[..legend.find("</ul>").unwrap()].contains("8&#x2f;255"));
}

#[test]
fn without_attacks_nothing_is_claimed() {
    let mut assessment = everything();
    assessment.evaluation.attacks.clear();
    assessment.trust.clear();
    let page_of = |assessment: &Assessment| page(assessment, &about()).unwrap();
    let page = page_of(&assessment);
    well_formed(&page);
    assert!(page.contains("Not measured") && !page.contains("<svg role"));
    assessment.evaluation.verdicts.clear();
    assessment.views = None;
    assessment.corruptions = None;
    assessment.wide.clear();
    well_formed(&page_of(&assessment));
}

#[test]
fn l2_and_a_lone_budget_draw() {
    let page = page(&in_l2(), &about()).unwrap();
    well_formed(&page);
    assert!(page.contains("L2 0.5") && page.contains("budget of the attack (L2)"));
}

/// Writes pages to look at: `cargo test --release -p gabion -p gabion-experiment --lib page::tests -- --ignored --nocapture`.
#[test]
#[ignore = "writes pages to look at"]
fn pages_to_look_at() {
    for (name, assessment) in
        [("everything", everything()), ("withheld", withheld()), ("plain", plain()), ("l2", in_l2())]
    {
        let path = std::env::temp_dir().join(format!("gabion-report-{name}.html"));
        std::fs::write(&path, page(&assessment, &about()).unwrap()).unwrap();
        println!("{}", path.display());
    }
}
