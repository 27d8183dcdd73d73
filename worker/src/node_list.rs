//! Slurm's short form of a list of nodes: `gpu[01-03,7],login` is `gpu01`, `gpu02`, `gpu03`, `gpu7` and `login`.

/// The first node of a list. What is no list of Slurm's comes out as something that is no host either.
#[must_use]
pub fn first_node(list: &str) -> String {
    let mut node = String::new();
    let mut inside = false;
    let mut skips = false;
    for letter in list.trim().chars() {
        match letter {
            '[' if !inside => inside = true,
            ']' if inside => (inside, skips) = (false, false),
            // A list ends its first name, a range its first number.
            ',' if !inside => break,
            ',' | '-' if inside => skips = true,
            _ if skips => {}
            _ => node.push(letter),
        }
    }
    if inside { list.to_owned() } else { node }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_node_of_a_list() {
        for (list, node) in [
            ("n1", "n1"),
            ("n1,n2", "n1"),
            ("n[1-2]", "n1"),
            ("node[001-010,20]", "node001"),
            ("gpu-a[3,5-7],gpu-b1", "gpu-a3"),
            ("rack[0-1]n[2-3]", "rack0n2"),
            ("n[1-2].example.org", "n1.example.org"),
            ("login-1,n[1-2]", "login-1"),
            ("n[1-2", "n[1-2"),
            ("n]1", "n]1"),
            ("", ""),
        ] {
            assert_eq!(first_node(list), node, "{list}");
        }
    }
}
