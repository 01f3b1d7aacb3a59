//! What a path of `/resources` is, and who may do what there (spec/rest-api.md, section 13). Pure.

use conclave_filesync::FilePath;
use percent_encoding::percent_decode_str;

/// Below these the second part of the path names a tenant.
const OF_TENANTS: [&[u8]; 4] = [
    b"blueprints",
    b"uploaded-blueprints",
    b"deployments",
    b"tenant-resources",
];
/// Whoever may log in may read these.
const OF_ALL: [&[u8]; 6] = [
    b"global-resources",
    b"plugins",
    b"spec",
    b"cloudify",
    b"packages",
    b"authenticators",
];
/// What the API hands out to administrators alone is not to be had here by others.
const OF_ADMINISTRATORS: [&[u8]; 2] = [b"snapshots", b"log_bundles"];
/// Agents fetch themselves before they have credentials.
const OPEN: &[u8] = b"cloudify_agent";

/// Who may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Everybody.
    Anybody,
    /// Whoever has logged in.
    LoggedIn,
    /// Administrators.
    Administrators,
    /// Whoever may in this tenant; and whoever has logged in, when `blueprint` is one of the tenant's that is shown to all.
    InTenant {
        /// By its name.
        tenant: String,
        /// The blueprint that the files belong to.
        blueprint: Option<String>,
    },
}

/// A place of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) path: FilePath,
    pub(crate) readers: Readers,
    /// A folder is meant: the path ended in a slash.
    pub(crate) as_folder: bool,
}

impl Place {
    /// From what follows `/resources/` in a URI, still encoded. `None` for what can be no place, or none that anybody may see: an answer
    /// must not tell the two apart.
    pub(crate) fn of(encoded: &str) -> Option<Self> {
        let decoded: Vec<u8> = percent_decode_str(encoded).collect();
        let (name, as_folder) = match decoded.strip_suffix(b"/") {
            Some(name) => (name, true),
            None => (decoded.as_slice(), false),
        };
        // It refuses `..`, empty parts and zero bytes: nothing outside of the tree has a name.
        Self::at(FilePath::new(name).ok()?, as_folder)
    }

    /// From a path of the tree.
    pub(crate) fn at(path: FilePath, as_folder: bool) -> Option<Self> {
        let mut parts = path.as_bytes().split(|byte| *byte == b'/');
        let area = parts.next()?;
        let readers = if OF_TENANTS.contains(&area) {
            let text = |part: Option<&[u8]>| part.map(|part| String::from_utf8(part.to_vec()));
            let tenant = text(parts.next())?.ok()?;
            let of_blueprint = area == OF_TENANTS[0] || area == OF_TENANTS[1];
            let blueprint = match text(parts.next()).filter(|_| of_blueprint) {
                Some(blueprint) => Some(blueprint.ok()?),
                None => None,
            };
            Readers::InTenant { tenant, blueprint }
        } else if OF_ALL.contains(&area) {
            Readers::LoggedIn
        } else if OF_ADMINISTRATORS.contains(&area) {
            Readers::Administrators
        } else if area == OPEN {
            Readers::Anybody
        } else {
            return None;
        };
        Some(Self {
            path,
            readers,
            as_folder,
        })
    }

    /// The tenant in which it may be written, where anybody may write at all: files of deployments, inside of one.
    pub(crate) fn writable_in(&self) -> Option<&str> {
        let deep = self.path.as_bytes().split(|byte| *byte == b'/').count() > 3;
        match &self.readers {
            Readers::InTenant { tenant, .. } if deep && self.path.area() == b"deployments" => Some(tenant),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn readers(path: &str) -> Option<Readers> {
        Place::of(path).map(|place| place.readers)
    }

    fn in_tenant(tenant: &str, blueprint: Option<&str>) -> Option<Readers> {
        Some(Readers::InTenant {
            tenant: tenant.into(),
            blueprint: blueprint.map(str::to_owned),
        })
    }

    #[test]
    fn the_second_part_names_the_tenant() {
        assert_eq!(readers("blueprints/t/b/x.yaml"), in_tenant("t", Some("b")));
        assert_eq!(readers("uploaded-blueprints/t/b/b.zip"), in_tenant("t", Some("b")));
        assert_eq!(readers("deployments/t/d/x"), in_tenant("t", None));
        assert_eq!(readers("tenant-resources/t/x"), in_tenant("t", None));
        assert_eq!(readers("tenant%2Dresources/t%20t/x"), in_tenant("t t", None));
        assert_eq!(readers("tenant-resources"), None);
    }

    #[test]
    fn areas_have_their_readers() {
        assert_eq!(readers("global-resources/x"), Some(Readers::LoggedIn));
        assert_eq!(readers("snapshots/s/s.zip"), Some(Readers::Administrators));
        assert_eq!(readers("cloudify_agent/x"), Some(Readers::Anybody));
        assert_eq!(readers("passwords"), None);
    }

    #[test]
    fn no_way_leads_out() {
        for path in [
            "global-resources/../../etc/passwd",
            "global-resources/%2e%2e/%2e%2e/etc/passwd",
            "global-resources/..%2f..%2fsnapshots/x",
            "global-resources/%252e%252e/x%00",
            "tenant-resources/../snapshots/s/s.zip",
            "tenant-resources//x",
            "/etc/passwd",
            "global-resources/./x",
            "",
            "/",
        ] {
            assert_eq!(Place::of(path), None, "{path}");
        }
    }

    #[test]
    fn only_files_of_a_deployment_are_written() {
        let writable = |path: &str| Place::of(path).and_then(|place| place.writable_in().map(str::to_owned));
        assert_eq!(writable("deployments/t/d/x"), Some("t".into()));
        assert_eq!(writable("deployments/t/d"), None);
        assert_eq!(writable("deployments/t"), None);
        assert_eq!(writable("blueprints/t/b/x"), None);
        assert_eq!(writable("global-resources/a/b/c"), None);
    }

    proptest! {
        /// Whatever is asked for: a place lies in its area, and a tenant's place lies in its tenant.
        #[test]
        fn a_place_lies_where_its_readers_are_asked(path in "(blueprints|deployments|snapshots|cloudify_agent|x)?[/.%2efa-c]{0,20}") {
            if let Some(place) = Place::of(&path) {
                let text = String::from_utf8_lossy(place.path.as_bytes()).into_owned();
                prop_assert!(!text.split('/').any(|part| part == ".." || part == "." || part.is_empty()));
                if let Readers::InTenant { tenant, .. } = &place.readers {
                    prop_assert_eq!(text.split('/').nth(1), Some(tenant.as_str()));
                }
            }
        }
    }
}
