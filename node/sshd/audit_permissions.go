package sshd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
)

// permissions looks at who may write what decides, and read what is secret.
func (a *auditor) permissions() {
	a.configPermissions()
	a.dirPermissions()
	if part, why := unsafe(a.SSHD); why != "" {
		a.add(Finding{
			Code: "program-writable", Severity: SeverityOpen, Setting: "sshd", Value: part + ": " + why, Want: wantRoot, File: part,
			Problem: "Others than root can replace sshd.", Remedy: "Install it again, and give it and its folders to root, with modes of 0755.",
		})
	}
	for _, key := range a.baseline["hostkey"] {
		a.hostKey(key)
	}
	a.dataDir()
}

const wantRoot = "root's, and for nobody else to write"

func (a *auditor) configPermissions() {
	seen := map[string]bool{}
	look := func(path, setting string) {
		part, why := unsafe(path)
		if why == "" || seen[part] {
			return
		}
		seen[part] = true
		a.add(Finding{
			Code: "config-writable", Severity: SeverityOpen, Setting: setting, Value: part + ": " + why, Want: wantRoot, File: part,
			Problem: "Others than root can change what sshd does.", Remedy: giveToRoot(part),
		})
	}
	for _, file := range a.config.files {
		look(file, "sshd_config")
	}
	for _, pattern := range a.config.globs {
		look(folderOf(pattern), "include")
	}
	for _, l := range a.config.lines { // programs and files of root's that sshd runs or believes
		switch l.keyword {
		case "banner", "chrootdirectory", "forcecommand", "subsystem", "versionaddendum":
			continue
		case "securitykeyprovider", "modulifile", "xauthlocation", "hostkeyagent":
			if len(l.args) > 0 && filepath.IsAbs(l.args[0]) {
				look(l.args[0], l.keyword)
			}
		}
	}
	if rc := filepath.Join(sshdFolder, "sshrc"); exists(rc) { // run in each session (sshd(8))
		look(rc, "sshrc")
	}
}

// folderOf is the part of a pattern before its first wildcard's folder.
func folderOf(pattern string) string {
	if i := strings.IndexAny(pattern, "*?["); i >= 0 {
		return filepath.Dir(pattern[:i] + "x")
	}
	return filepath.Dir(pattern)
}

func (a *auditor) dirPermissions() {
	seen := map[string]bool{}
	state := a.dir.State()
	for _, path := range []string{string(a.dir), a.dir.UserCA(), a.dir.KRL(), state, state + ".newest", a.dir.NodeFile()} {
		part, why := unsafe(path)
		if why == "" || seen[part] {
			continue
		}
		seen[part] = true
		a.add(Finding{
			Code: "trust-writable", Severity: SeverityOpen, Setting: filepath.Base(path), Value: part + ": " + why, Want: wantRoot, File: part,
			Problem: "Others than root can change whom sshd and its helper believe.", Remedy: giveToRoot(part),
		})
	}
	if info, err := os.Stat(state); err == nil && info.Mode()&0o007 != 0 {
		a.add(Finding{
			Code: "state-readable", Severity: SeverityNote, Setting: "state", Value: info.Mode().Perm().String(), Want: "-rw-r-----", File: state,
			Problem: "Everybody on the machine can read which roles, devices and locks there are.", Remedy: "chmod 0640 " + state,
		})
	}
}

// keyReaders is the group by which some distributions let ssh-keysign read host
// keys.
const keyReaders = "ssh_keys"

func (a *auditor) hostKey(path string) {
	info, err := os.Stat(path)
	if err != nil {
		return // sshd has said so
	}
	part, why := unsafe(path)
	owner, _ := info.Sys().(*syscall.Stat_t)
	switch {
	case why != "":
	case info.Mode()&0o007 != 0:
		part, why = path, "everybody can use it"
	case info.Mode()&0o040 != 0 && (owner == nil || groupName(owner.Gid) != keyReaders):
		part, why = path, "its group can read it"
	default:
		return
	}
	a.add(Finding{
		Code: "host-key-exposed", Severity: SeverityOpen, Setting: "hostkey", Value: part + ": " + why, Want: "root's, 0600", File: path,
		Problem: "Others than root can pose as this server.", Remedy: "Make a new key (`ssh-keygen -A`), and run `dtnoded sshd install` again.",
	})
}

func (a *auditor) dataDir() {
	info, err := os.Stat(a.DataDir)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var why string
	if err != nil {
		why = err.Error()
	} else if part, problem := unsafe(a.DataDir); problem != "" {
		why = part + ": " + problem
	} else if info.Mode()&0o077 != 0 {
		why = info.Mode().Perm().String()
	}
	if why == "" {
		return
	}
	a.add(Finding{
		Code: "data-dir-exposed", Severity: SeverityOpen, Setting: "--data-dir", Value: why, Want: "root's, 0700", File: a.DataDir,
		Problem: "Others than root can take the identity that this server has in the cluster.",
		Remedy:  "chmod 0700 " + a.DataDir + ", remove the node from the cluster, and let it join again.",
	})
}

func giveToRoot(path string) string { return "chown root " + path + "; chmod go-w " + path }

// unsafe follows path as the system does, and tells the first part of it that
// somebody other than root may change, and why. What is not there is safe, where
// its folder is. As sshd's safe_path (misc.c), it asks that each folder be root's
// and not writable for its group and others, sticky or not.
func unsafe(path string) (part, why string) {
	links := 0
	todo := strings.Split(filepath.Clean(path), "/")
	at := "/"
	if why = unsafeAt(at); why != "" {
		return at, why
	}
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		if name == "" || name == "." {
			continue
		}
		next := filepath.Join(at, name)
		info, err := os.Lstat(next)
		if errors.Is(err, fs.ErrNotExist) {
			return "", ""
		}
		if err != nil {
			return next, "it cannot be looked at"
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			if why = unsafeAt(next); why != "" {
				return next, why
			}
			at = next
			continue
		}
		target, err := os.Readlink(next)
		if links++; err != nil || links > maxPathLinks {
			return next, "it cannot be followed"
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return "", ""
}

func unsafeAt(path string) string {
	info, err := os.Lstat(path)
	if err != nil {
		return "it cannot be looked at"
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok || owner.Uid != 0:
		return "it is not root's"
	case info.Mode()&0o002 != 0:
		return "everybody can write it"
	case info.Mode()&0o020 != 0:
		return "its group can write it"
	}
	return ""
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

func groupName(gid uint32) string {
	g, err := user.LookupGroupId(fmt.Sprint(gid))
	if err != nil {
		return ""
	}
	return g.Name
}

// uidOf is empty where there is no such account.
func uidOf(name string) string {
	u, err := user.Lookup(name)
	if err != nil {
		return ""
	}
	return u.Uid
}
