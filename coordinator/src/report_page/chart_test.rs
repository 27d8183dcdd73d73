use super::*;

fn line(points: Vec<(f64, f64)>) -> Line {
    Line::through("out".to_owned(), &points)
}

#[test]
fn a_long_line_is_drawn_by_means_in_a_band() {
    let points = (0..10_000).map(|x| (f64::from(x), if x % 2 == 0 { 1.0 } else { 3.0 })).collect();
    let text = chart("loss", &[line(points)]);
    assert!(text.contains("<polygon class=\"band c0\""), "{text}");
    let middle = text.split("class=\"line c0 d0\" points=\"").nth(1).unwrap().split('"').next().unwrap();
    let ys: Vec<&str> = middle.split(' ').map(|point| point.split_once(',').unwrap().1).collect();
    // Columns of 35 points have one more of one kind than of the other.
    assert!(ys.len() <= COLUMNS && ys.iter().all(|y| (95.0..105.0).contains(&y.parse::<f64>().unwrap())), "{ys:?}");
    assert!(text.contains("from 1 to 3"), "{text}");
}

#[test]
fn what_is_no_number_is_left_out_and_what_is_constant_is_drawn() {
    let odd = vec![(1.0, f64::NAN), (2.0, f64::INFINITY)];
    assert_eq!(chart("loss", &[line(odd.clone())]), "");
    assert_eq!(chart("loss", &[]), "");
    let constant = chart("rate", &[line([odd, vec![(3.0, 0.5)], vec![(4.0, 0.5)]].concat())]);
    assert!(constant.contains("<circle") && !constant.contains("NaN") && !constant.contains("inf"), "{constant}");
    let zero = chart("rate", &[line(vec![(1.0, 0.0)])]);
    assert!(zero.contains("<circle") && !zero.contains("NaN"), "{zero}");
}

#[test]
fn several_lines_are_named_and_names_are_text() {
    let named = |name: &str| Line::through(name.to_owned(), &[(1.0, 1.0), (2.0, 2.0)]);
    let text = chart("loss", &[named("a<b"), named("c")]);
    assert!(text.contains("a&lt;b") && !text.contains("a<b"), "{text}");
    assert!(text.contains("class=\"line c1 d1\""), "{text}");
}

#[test]
fn many_lines_look_different() {
    let styles: std::collections::BTreeSet<String> = (0..36).map(style).collect();
    assert_eq!(styles.len(), 36);
}

#[test]
fn ticks_are_round() {
    assert_eq!(ticks((0.0, 780.0), 8), [0.0, 100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0]);
    assert_eq!(ticks((0.13, 0.52), 5), [0.2, 0.30000000000000004, 0.4, 0.5]);
    assert!(ticks((1.0, 1.0), 5).is_empty());
    assert!(ticks((0.0, f64::INFINITY), 5).is_empty());
}
