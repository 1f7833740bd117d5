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
	if why := unsafe(a.SSHD); why != "" {
		a.add(Finding{
			Code: "program-writable", Severity: SeverityOpen, Setting: "sshd", Value: why, Want: wantRoot, File: a.SSHD,
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
		why := unsafe(path)
		if why == "" || seen[why] {
			return
		}
		seen[why] = true
		a.add(Finding{
			Code: "config-writable", Severity: SeverityOpen, Setting: setting, Value: why, Want: wantRoot, File: path,
			Problem: "Others than root can change what sshd does.", Remedy: giveToRoot,
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
		why := unsafe(path)
		if why == "" || seen[why] {
			continue
		}
		seen[why] = true
		a.add(Finding{
			Code: "trust-writable", Severity: SeverityOpen, Setting: filepath.Base(path), Value: why, Want: wantRoot, File: path,
			Problem: "Others than root can change whom sshd and its helper believe.", Remedy: giveToRoot,
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
	why := unsafe(path)
	owner, _ := info.Sys().(*syscall.Stat_t)
	switch {
	case why != "":
	case info.Mode()&0o007 != 0:
		why = "everybody can use it"
	case info.Mode()&0o040 != 0 && (owner == nil || groupName(owner.Gid) != keyReaders):
		why = "its group can read it"
	default:
		return
	}
	a.add(Finding{
		Code: "host-key-exposed", Severity: SeverityOpen, Setting: "hostkey", Value: why, Want: "root's, 0600", File: path,
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
	} else if problem := unsafe(a.DataDir); problem != "" {
		why = problem
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

const giveToRoot = "Give what is named to root (chown root:root), and take the right to write it from others (chmod go-w)."

// unsafe tells why somebody other than root could change what path names. What
// is not there is safe, where its folder is.
func unsafe(path string) string {
	if err := checkSafe(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err.Error()
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
