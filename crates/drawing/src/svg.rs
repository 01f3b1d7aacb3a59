//! The picture as text.

use std::fmt::{Display, Write};

use conclave_blueprint::plan::{Node, Relationship};
use conclave_blueprint::{Plan, Value};

use super::layout::{Layout, Rect, text_width};
use super::route;
use super::tree::Tree;

const MARGIN: f64 = 24.0;
const TITLE: f64 = 44.0;
const LEGEND: f64 = 48.0;
const NAME_SIZE: f64 = 13.0;
const TYPE_SIZE: f64 = 10.5;

const STYLE: &str = "\
svg{background:#fbfbfd;font-family:system-ui,'Segoe UI','Helvetica Neue',Arial,sans-serif}\
.title{font-size:17px;font-weight:600;fill:#1b2434}.sub{font-size:12px;fill:#6b7688}\
.name{font-size:13px;font-weight:600;fill:#1b2434}.type{font-size:10.5px;fill:#5d6879}\
.box{stroke-width:1.2;filter:drop-shadow(0 1px 1.5px rgb(20 30 50/.14))}\
.plain{fill:#fff;stroke:#c3ccd9}.host{fill:#eef5ff;stroke:#7fa8dc}.storage{fill:#fff7ea;stroke:#dfb466}\
.network{fill:#eefaf4;stroke:#74bd99}.service{fill:#f7f1fe;stroke:#b394dd}\
.bar{stroke:none}.bar-plain{fill:#9aa7b8}.bar-host{fill:#3f7cc8}.bar-storage{fill:#d8952a}.bar-network{fill:#2f9c6b}\
.bar-service{fill:#8a5cc7}\
.group{fill:#8a5cc7;fill-opacity:.05;stroke:#8a5cc7;stroke-width:1.4;stroke-dasharray:6 4}\
.group-name{font-size:11.5px;font-weight:600;fill:#7244b3}\
.count{fill:#1b2434}.count-text{font-size:10.5px;font-weight:600;fill:#fff}\
.edge{fill:none;stroke-width:1.5;stroke-opacity:.85}.connected{stroke:#2f6fc0}.depends{stroke:#8391a5;stroke-dasharray:5 3.5}\
.other{stroke:#c2571a}.legend{font-size:11.5px;fill:#4c5768}";

/// A text that is safe between tags and in attributes.
fn escaped(text: &str) -> impl Display + '_ {
    struct Escaped<'t>(&'t str);
    impl Display for Escaped<'_> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            for character in self.0.chars() {
                match character {
                    '<' => f.write_str("&lt;")?,
                    '>' => f.write_str("&gt;")?,
                    '&' => f.write_str("&amp;")?,
                    '"' => f.write_str("&quot;")?,
                    // XML has no place for other control characters.
                    control if control.is_control() => f.write_char(' ')?,
                    other => f.write_char(other)?,
                }
            }
            Ok(())
        }
    }
    Escaped(text)
}

/// The text, cut at the end if it is wider than `width`.
fn fitted(text: &str, size: f64, width: f64) -> String {
    if text_width(text, size) <= width {
        return text.to_owned();
    }
    let mut cut = String::new();
    for character in text.chars() {
        cut.push(character);
        if text_width(&cut, size) + size > width {
            break;
        }
    }
    cut.pop();
    cut.push('…');
    cut
}

/// A kind of node, by the types that it is derived from.
fn kind(node: &Node) -> &'static str {
    let is = |parts: &[&str]| {
        let mut names = node.type_hierarchy.iter().map(|name| name.to_ascii_lowercase());
        names.any(|name| parts.iter().any(|part| name.contains(part)))
    };
    if is(&["nodes.compute", ".server", "virtualmachine"]) {
        "host"
    } else if is(&["volume", "filesystem", "storage", "disk", "objectstorage", "bucket"]) {
        "storage"
    } else if is(&[
        "network",
        "subnet",
        "router",
        ".port",
        "securitygroup",
        "security_group",
        "floatingip",
        "loadbalancer",
        "nodes.tier",
    ]) {
        "network"
    } else if is(&[
        "component",
        "sharedresource",
        "serviceproxy",
        "database",
        "dbms",
        "webserver",
        "application",
        "messagebus",
    ]) {
        "service"
    } else {
        "plain"
    }
}

fn family(relationship: &Relationship) -> &'static str {
    if relationship.is_a("cloudify.relationships.connected_to") {
        "connected"
    } else if relationship.is_a("cloudify.relationships.depends_on") {
        "depends"
    } else {
        "other"
    }
}

/// The number of instances, where it is not one: a number, or a mark for what a function will give.
fn count_of(properties: Option<&Value>) -> Option<String> {
    match properties?.get("default_instances")? {
        Value::Int(1) => None,
        Value::Int(count) => Some(format!("×{count}")),
        _ => Some("×?".to_owned()),
    }
}

fn node_count(node: &Node) -> Option<String> {
    count_of(Some(&Value::Map(node.scalable().clone())))
}

fn short_type(name: &str) -> &str {
    name.strip_prefix("cloudify.").unwrap_or(name)
}

/// By box, how wide its label is.
pub(crate) fn label_widths(plan: &Plan) -> Vec<f64> {
    const AROUND: f64 = 34.0;
    let badge = |count: Option<String>| count.map_or(0.0, |count| text_width(&count, TYPE_SIZE) + 18.0);
    let nodes = plan.nodes.iter().map(|node| {
        let name = text_width(&node.name, NAME_SIZE) + badge(node_count(node));
        name.max(text_width(short_type(&node.type_name), TYPE_SIZE)) + AROUND
    });
    let groups = plan
        .scaling_groups
        .iter()
        .map(|(name, group)| text_width(name, NAME_SIZE) + badge(count_of(group.get("properties"))) + AROUND);
    nodes.chain(groups).collect()
}

/// Writes the picture.
pub(crate) fn write(plan: &Plan, tree: &Tree, layout: &Layout) -> String {
    let whole = layout.boxes[tree.root()];
    let width = (whole.width + 2.0 * MARGIN).max(520.0);
    let height = whole.height + TITLE + LEGEND + MARGIN;
    let mut out = String::with_capacity(1_024 + 700 * tree.children.len());
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} \
         {height:.0}\" role=\"img\"><title>Topology</title><style>{STYLE}</style>"
    );
    for name in ["connected", "depends", "other"] {
        let colour = match name {
            "connected" => "#2f6fc0",
            "depends" => "#8391a5",
            _ => "#c2571a",
        };
        let _ = write!(
            out,
            "<marker id=\"{name}\" viewBox=\"0 0 10 10\" refX=\"9\" refY=\"5\" markerWidth=\"7\" markerHeight=\"7\" \
             orient=\"auto-start-reverse\"><path d=\"M0 .8L10 5L0 9.2L2.2 5z\" fill=\"{colour}\"/></marker>"
        );
    }
    title(&mut out, plan, width - 2.0 * MARGIN);
    let _ = write!(
        out,
        "<g transform=\"translate({:.1} {TITLE})\">",
        (width - whole.width) / 2.0
    );
    // Names are written last, so that no line runs over them.
    let mut labels = String::with_capacity(300 * tree.children.len());
    for id in tree.order.iter().copied().filter(|id| *id != tree.root()) {
        match plan.nodes.get(id) {
            Some(node) => node_box(&mut out, &mut labels, node, &layout.boxes[id]),
            None => {
                if let Some((name, group)) = plan.scaling_groups.iter().nth(id - tree.nodes) {
                    group_box(
                        &mut out,
                        &mut labels,
                        name,
                        count_of(group.get("properties")),
                        &layout.boxes[id],
                    );
                }
            }
        }
    }
    for (arrow, path) in tree.arrows.iter().zip(route::paths(tree, layout)) {
        let (source, target) = (
            &plan.nodes[arrow.source],
            &plan.nodes[arrow.target.min(tree.nodes.saturating_sub(1))],
        );
        let Some(relationship) = source.relationships.get(arrow.position) else {
            continue;
        };
        let family = family(relationship);
        let _ = write!(
            out,
            "<path class=\"edge {family}\" d=\"{path}\" marker-end=\"url(#{family})\"><title>{} → {}: {}</title></path>",
            escaped(&source.name),
            escaped(&target.name),
            escaped(&relationship.type_name)
        );
    }
    out.push_str(&labels);
    out.push_str("</g>");
    legend(&mut out, plan, tree, height);
    out.push_str("</svg>\n");
    out
}

fn title(out: &mut String, plan: &Plan, width: f64) {
    let description = plan.description.as_str().unwrap_or_default();
    let line = description
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or("Topology");
    let line = fitted(line, 17.0, width);
    let counts = format!(
        "{} node templates, {} scaling groups, {}",
        plan.nodes.len(),
        plan.scaling_groups.len(),
        plan.version.raw
    );
    let _ = write!(
        out,
        "<text class=\"title\" x=\"{MARGIN}\" y=\"26\">{}</text><text class=\"sub\" x=\"{MARGIN}\" y=\"43\">{}</text>",
        escaped(&line),
        escaped(&counts)
    );
}

fn node_box(out: &mut String, labels: &mut String, node: &Node, rect: &Rect) {
    let Rect { x, y, width, height } = *rect;
    let kind = kind(node);
    let count = node_count(node);
    let badge = count
        .as_deref()
        .map_or(0.0, |count| text_width(count, TYPE_SIZE) + 18.0);
    let name = fitted(&node.name, NAME_SIZE, width - 22.0 - badge);
    let type_name = fitted(short_type(&node.type_name), TYPE_SIZE, width - 22.0);
    let _ = write!(
        out,
        "<g><title>{} ({})</title><rect class=\"box {kind}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
         height=\"{height:.1}\" rx=\"7\"/><rect class=\"bar bar-{kind}\" x=\"{x:.1}\" y=\"{:.1}\" width=\"4\" height=\"30\" \
         rx=\"2\"/></g>",
        escaped(&node.name),
        escaped(&node.type_name),
        y + 8.0
    );
    let _ = write!(
        labels,
        "<text class=\"name\" x=\"{left:.1}\" y=\"{:.1}\">{}</text><text class=\"type\" x=\"{left:.1}\" y=\"{:.1}\">{}</text>",
        y + 20.0,
        escaped(&name),
        y + 35.0,
        escaped(&type_name),
        left = x + 14.0
    );
    if let Some(count) = count {
        count_badge(labels, &count, x + width - 8.0, y + 8.0);
    }
}

fn group_box(out: &mut String, labels: &mut String, name: &str, count: Option<String>, rect: &Rect) {
    let Rect { x, y, width, height } = *rect;
    let _ = write!(
        out,
        "<g><title>scaling group {}</title><rect class=\"group\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
         height=\"{height:.1}\" rx=\"12\"/></g>",
        escaped(name)
    );
    let _ = write!(
        labels,
        "<text class=\"group-name\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
        x + 14.0,
        y + 20.0,
        escaped(&fitted(name, NAME_SIZE, width - 60.0))
    );
    if let Some(count) = count {
        count_badge(labels, &count, x + width - 8.0, y + 8.0);
    }
}

/// A number of instances, its upper right corner at (`right`, `top`).
fn count_badge(out: &mut String, count: &str, right: f64, top: f64) {
    let width = text_width(count, TYPE_SIZE) + 10.0;
    let _ = write!(
        out,
        "<rect class=\"count\" x=\"{:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"16\" rx=\"8\"/><text \
         class=\"count-text\" text-anchor=\"middle\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
        right - width,
        right - width / 2.0,
        top + 12.0,
        escaped(count)
    );
}

/// What the lines and boxes mean, as far as the picture has them.
fn legend(out: &mut String, plan: &Plan, tree: &Tree, height: f64) {
    let y = height - 20.0;
    let mut x = MARGIN;
    let has = |wanted: &str| {
        let mut families = tree.arrows.iter().filter_map(|arrow| {
            let relationship = plan.nodes.get(arrow.source)?.relationships.get(arrow.position)?;
            Some(family(relationship))
        });
        families.any(|family| family == wanted)
    };
    for (family, label) in [
        ("connected", "connected to"),
        ("depends", "depends on"),
        ("other", "other relationship"),
    ] {
        if has(family) {
            let _ = write!(
                out,
                "<path class=\"edge {family}\" d=\"M{x:.1} {y:.1}h34\" marker-end=\"url(#{family})\"/><text class=\"legend\" \
                 x=\"{:.1}\" y=\"{:.1}\">{label}</text>",
                x + 42.0,
                y + 4.0
            );
            x += 42.0 + text_width(label, 11.5) + 26.0;
        }
    }
    let has_kind = |wanted: &str| plan.nodes.iter().any(|node| kind(node) == wanted);
    for (kind, label) in [
        ("host", "host"),
        ("network", "network"),
        ("storage", "storage"),
        ("service", "service"),
    ] {
        if has_kind(kind) {
            let _ = write!(
                out,
                "<rect class=\"box {kind}\" x=\"{x:.1}\" y=\"{:.1}\" width=\"18\" height=\"14\" rx=\"3\"/><text \
                 class=\"legend\" x=\"{:.1}\" y=\"{:.1}\">{label}</text>",
                y - 7.0,
                x + 24.0,
                y + 4.0
            );
            x += 24.0 + text_width(label, 11.5) + 22.0;
        }
    }
    if !plan.scaling_groups.is_empty() {
        let _ = write!(
            out,
            "<rect class=\"group\" x=\"{x:.1}\" y=\"{:.1}\" width=\"22\" height=\"14\" rx=\"4\"/><text class=\"legend\" \
             x=\"{:.1}\" y=\"{:.1}\">scaling group</text>",
            y - 7.0,
            x + 28.0,
            y + 4.0
        );
    }
}
