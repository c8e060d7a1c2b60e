// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests which files and directories are opened, and which are refused.

use std::os::unix::fs::{chown, symlink};

use super::*;

/// The id of another user, which has no name on most hosts.
const OTHER: u32 = 61_234;

/// Returns whether the tests can change the owner of files.
fn is_root() -> bool {
    let root = Uid::effective().is_root();
    if !root {
        println!("skipped in part: only root can change the owner of files");
    }
    root
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn our_own_links_are_followed_and_those_of_other_users_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    let real = root.join("data/state");
    fs::create_dir_all(&real).unwrap();
    let link = root.join("state");
    symlink("data/../data/./state", &link).unwrap();
    assert_eq!(private_directory(&link).unwrap(), real);
    assert_eq!(
        private_directory(&link.join("new/../newer")).unwrap(),
        real.join("newer"),
        "the missing part is kept"
    );
    symlink("loop", root.join("loop")).unwrap();
    let error = private_directory(&root.join("loop")).unwrap_err();
    assert!(matches!(error, TrustError::Io { .. }), "{error}");
    if !is_root() {
        return;
    }
    std::os::unix::fs::lchown(&link, Some(OTHER), None).unwrap();
    for path in [link.clone(), link.join("below")] {
        let error = private_directory(&path).unwrap_err();
        assert!(
            matches!(&error, TrustError::ForeignLink { path, owner: OTHER } if *path == link),
            "{error}"
        );
    }
}

#[test]
fn a_directory_that_others_can_change_is_refused_with_all_that_is_below_it() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    let (above, state) = (root.join("above"), root.join("above/state"));
    fs::create_dir_all(&state).unwrap();
    for (writable, sticky_is_fine) in [(&above, true), (&state, false)] {
        for bits in [0o775, 0o757, 0o777, 0o1777] {
            mode(writable, bits);
            let fine = bits == 0o1777 && sticky_is_fine;
            for path in [&state, &state.join("missing")] {
                let result = private_directory(path);
                // If the directory to open is `state/missing`, then `state` is only a directory
                // above it, so the sticky bit makes `state` acceptable too.
                let fine = fine || (bits == 0o1777 && path != &state);
                assert_eq!(result.is_ok(), fine, "{writable:?} {bits:o} {result:?}");
            }
        }
        mode(writable, 0o755);
        assert!(private_directory(&state).is_ok());
    }
    fs::write(root.join("file"), "").unwrap();
    for path in [root.join("file"), root.join("file/below")] {
        let error = private_directory(&path).unwrap_err();
        assert!(matches!(error, TrustError::NotDirectory(_)), "{error}");
    }
    if !is_root() {
        return;
    }
    for foreign in [&state, &above] {
        chown(foreign, Some(OTHER), None).unwrap();
        let error = private_directory(&state).unwrap_err();
        assert!(
            matches!(
                &error,
                TrustError::ForeignDirectory { path, owner: OTHER } if path == foreign
            ),
            "{error}"
        );
        chown(foreign, Some(0), None).unwrap();
    }
}

#[test]
fn only_a_regular_file_of_ours_with_one_name_is_accepted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("limiter.db");
    let check = || check_file(&path, &Rights::OWN);
    assert!(check().unwrap().is_none());
    fs::write(&path, "").unwrap();
    assert!(check().unwrap().is_some());
    let other = directory.path().join("other");
    fs::hard_link(&path, &other).unwrap();
    let error = check().unwrap_err();
    assert!(
        matches!(error, TrustError::HardLinked { links: 2, .. }),
        "{error}"
    );
    fs::remove_file(&other).unwrap();
    if is_root() {
        chown(&path, Some(OTHER), None).unwrap();
        let error = check().unwrap_err();
        assert!(
            matches!(error, TrustError::ForeignFile { owner: OTHER, .. }),
            "{error}"
        );
    }
    fs::rename(&path, &other).unwrap();
    let make: [(&str, &dyn Fn()); 4] = [
        ("a symbolic link", &|| symlink(&other, &path).unwrap()),
        ("a symbolic link", &|| symlink("nowhere", &path).unwrap()),
        ("a pipe", &|| {
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        }),
        ("a directory", &|| fs::create_dir(&path).unwrap()),
    ];
    for (wanted, make) in make {
        make();
        let error = check().unwrap_err();
        assert!(
            matches!(error, TrustError::NotFile { kind, .. } if kind == wanted),
            "{error}"
        );
        assert!(error.to_string().contains(wanted), "{error}");
        fs::remove_file(&path)
            .or_else(|_| fs::remove_dir(&path))
            .unwrap();
    }
}

#[test]
fn root_opens_another_users_files_with_that_users_rights() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    fs::write(&secret, "of root").unwrap();
    mode(&secret, 0o600);
    mode(directory.path(), 0o755);
    let theirs = directory.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    chown(&theirs, Some(OTHER), Some(OTHER)).unwrap();
    let rights = Rights::of_owner(&theirs).unwrap();
    assert_eq!(rights.uid(), OTHER);
    {
        let _assumed = rights.assume().unwrap();
        let refused = fs::read(&secret).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        fs::write(theirs.join("file"), "").unwrap();
    }
    assert_eq!(fs::read(&secret).unwrap(), b"of root");
    let made = fs::metadata(theirs.join("file")).unwrap();
    assert_eq!((made.uid(), made.gid()), (OTHER, OTHER));
    assert_eq!(Rights::of_owner(directory.path()).unwrap(), Rights::OWN);
}
