//! The built-in types, by the names under which blueprints import them (spec/dsl.md, sections 5 and 20).

/// The types of the newest version of the language.
const TYPES_1_5: &str = include_str!("../types/types.yaml");
const TYPES_1_4: &str = include_str!("../types/types_1_4.yaml");
const TYPES_1_3: &str = include_str!("../types/types_1_3.yaml");

const NAME_1_5: &str = "cloudify/types/types.yaml";
const NAME_1_4: &str = "cloudify/types/types_1_4.yaml";
const NAME_1_3: &str = "cloudify/types/types_1_3.yaml";

/// The file of that name.
pub(crate) fn text(name: &str) -> Option<&'static str> {
    match name {
        NAME_1_5 => Some(TYPES_1_5),
        NAME_1_4 => Some(TYPES_1_4),
        NAME_1_3 => Some(TYPES_1_3),
        _ => None,
    }
}

/// The file that stands for one of the public addresses of the original's types, which name a release of the product.
pub(crate) fn name_of_url(url: &str) -> Option<&'static str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let rest = rest.strip_prefix("www.").unwrap_or(rest);
    let rest = ["getcloudify.org/spec/cloudify/", "cloudify.co/spec/cloudify/"]
        .into_iter()
        .find_map(|prefix| rest.strip_prefix(prefix))?;
    let (release, file) = rest.split_once('/')?;
    let mut numbers = release.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let release = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match file {
        "types_1_3.yaml" => Some(NAME_1_3),
        "types_1_4.yaml" => Some(NAME_1_4),
        "types.yaml" if release >= (7, 0) => Some(NAME_1_5),
        "types.yaml" if release >= (6, 4) => Some(NAME_1_4),
        "types.yaml" => Some(NAME_1_3),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_addresses_lead_to_the_types_of_their_time() {
        for (url, name) in [
            (
                "http://www.getcloudify.org/spec/cloudify/4.6/types.yaml",
                Some(NAME_1_3),
            ),
            ("https://cloudify.co/spec/cloudify/6.4.0/types.yaml", Some(NAME_1_4)),
            ("https://cloudify.co/spec/cloudify/7.0.0/types.yaml", Some(NAME_1_5)),
            ("https://cloudify.co/spec/aws-plugin/1.0/plugin.yaml", None),
            ("https://example.org/types.yaml", None),
        ] {
            assert_eq!(name_of_url(url), name, "{url}");
        }
    }
}
