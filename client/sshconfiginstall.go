package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"

	"connectrpc.com/connect"

	"devicetrust/api"
)

// sshConfigSuffix is of the file in DTSH_HOME that holds what SSHConfig wrote;
// the person's own ssh_config includes it, so that a login can write it again.
const sshConfigSuffix = ".ssh_config"

// SSHConfigPath is the ssh_config(5) of the person: as for ssh, in the home
// directory of the account, whatever HOME says.
func SSHConfigPath() (string, error) {
	if u, err := user.Current(); err == nil && filepath.IsAbs(u.HomeDir) {
		return filepath.Join(u.HomeDir, ".ssh", "config"), nil
	}
	return "", api.Refuse(connect.CodeFailedPrecondition, "cannot tell where your ssh_config is: this account has no home directory").
		WithHint("Name the file with: --ssh-config=FILE")
}

// InstallSSHConfig writes text (of SSHConfig) into DTSH_HOME, and has the
// ssh_config at path include it: with a line at its top, since lines further
// down belong to the Host above them. Where something of that is so already, it
// is left alone. changed tells whether path is another file now.
func (p *Profile) InstallSSHConfig(ctx context.Context, path, text string) (changed bool, err error) {
	include, err := p.includeLine()
	if err != nil {
		return false, err
	}
	unlock, err := p.home.Lock(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	f, err := openSSHConfig(path)
	if err != nil {
		return false, err
	}
	if err := p.writeSSHConfig(text); err != nil {
		return false, err
	}
	if includes(f.text, p.sshConfig()) {
		return false, nil
	}
	return true, f.replace(append([]byte(p.remark(f.info == nil)+include), f.text...))
}

// RemoveSSHConfig undoes InstallSSHConfig. changed tells whether there was
// something to undo.
func (p *Profile) RemoveSSHConfig(ctx context.Context, path string) (changed bool, err error) {
	include, err := p.includeLine()
	if err != nil {
		return false, err
	}
	unlock, err := p.home.Lock(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	f, err := openSSHConfig(path)
	if err != nil {
		return false, err
	}
	rest, made := p.without(f.text, include)
	switch {
	case made && len(rest) == 0 && !f.link:
		err = f.remove()
		changed = true
	case len(rest) != len(f.text):
		err = f.replace(rest)
		changed = true
	}
	if err != nil {
		return false, err
	}
	// Last: without it, an Include that somebody wrote themselves is of nothing.
	switch err := os.Remove(p.sshConfig()); {
	case err == nil:
		changed = true
	case !errors.Is(err, fs.ErrNotExist):
		return changed, unwritable(p.sshConfig(), err)
	}
	return changed, nil
}

// SSHConfigInstalled tells whether InstallSSHConfig has written, so that a new
// login has to write again.
func (p *Profile) SSHConfigInstalled() bool {
	_, err := os.Lstat(p.sshConfig())
	return err == nil
}

// RefreshSSHConfig is InstallSSHConfig for where the person's ssh_config has
// been told already.
func (p *Profile) RefreshSSHConfig(ctx context.Context, text string) error {
	unlock, err := p.home.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return p.writeSSHConfig(text)
}

func (p *Profile) writeSSHConfig(text string) error {
	name := fileName(p.Proxy) + sshConfigSuffix
	if old, err := p.home.read("profiles", name); err == nil && string(old) == text {
		return nil
	}
	return p.home.write([]byte(text), "profiles", name)
}

func (p *Profile) sshConfig() string {
	return p.home.path("profiles", fileName(p.Proxy)+sshConfigSuffix)
}

// remark stands above the include line. It remembers that we made the file,
// which is removed then.
func (p *Profile) remark(made bool) string {
	if made {
		return fmt.Sprintf("# Servers of %s. dtsh config --write made this file.\n", p.Proxy)
	}
	return fmt.Sprintf("# Servers of %s, from dtsh config --write.\n", p.Proxy)
}

// includable: Include takes a pattern (glob(3)), in which tokens and variables
// are replaced by some versions of ssh (since 9.9) and not by others.
var includable = regexp.MustCompile(`^[^\x00-\x1f\x7f"\\%$*?\[\]{}]*$`)

func (p *Profile) includeLine() (string, error) {
	path := filepath.ToSlash(p.sshConfig())
	if !includable.MatchString(path) {
		return "", api.Refuse(connect.CodeFailedPrecondition, "ssh cannot be told to include the path %q", path).
			WithHint("Set DTSH_HOME to a path of letters, digits and ._- alone, and log in again.")
	}
	return fmt.Sprintf("Include \"%s\"\n", path), nil
}

// without takes out the include line and the remark above it. made tells that
// the remark says that we made the file.
func (p *Profile) without(text []byte, include string) (rest []byte, made bool) {
	var lines []string
	for line := range strings.Lines(string(text)) {
		// Whoever edits the file may have made its line ends another system's.
		if strings.TrimRight(line, "\r\n")+"\n" != include {
			lines = append(lines, line)
			continue
		}
		if n := len(lines) - 1; n >= 0 {
			above := strings.TrimRight(lines[n], "\r\n") + "\n"
			if above == p.remark(true) || above == p.remark(false) {
				made = made || above == p.remark(true)
				lines = lines[:n]
			}
		}
	}
	return []byte(strings.Join(lines, "")), made
}

// includes tells whether a person's ssh_config includes file for all hosts. It
// follows no other Include.
func includes(text []byte, file string) bool {
	everywhere := true
	for line := range strings.Lines(string(text)) {
		words := configWords(line)
		if len(words) < 2 {
			continue
		}
		switch strings.ToLower(words[0]) {
		case "host":
			everywhere = len(words) == 2 && words[1] == "*"
		case "match":
			everywhere = len(words) == 2 && strings.EqualFold(words[1], "all")
		case "include":
			for _, pattern := range words[1:] {
				if everywhere && matches(pattern, file) {
					return true
				}
			}
		}
	}
	return false
}

func matches(pattern, file string) bool {
	if !filepath.IsAbs(pattern) && !strings.HasPrefix(pattern, "~/") {
		pattern = "~/.ssh/" + pattern // wherever the file is (readconf.c)
	}
	if rest, ok := strings.CutPrefix(pattern, "~/"); ok {
		home, err := os.UserHomeDir() // glob(3) asks HOME first
		if err != nil {
			return false
		}
		pattern = filepath.Join(home, rest)
	}
	ok, err := filepath.Match(filepath.Clean(pattern), file)
	return ok && err == nil
}

// configWords splits a line of an ssh_config as ssh does: "Key Value", with "="
// between them or not, and double quotes around what has spaces.
func configWords(line string) (words []string) {
	rest := strings.Trim(line, " \t\r\n\f")
	if strings.HasPrefix(rest, "#") {
		return nil
	}
	if i := strings.IndexAny(rest, " \t="); i > 0 {
		words, rest = []string{rest[:i]}, strings.TrimLeft(rest[i:], " \t")
		rest = strings.TrimLeft(strings.TrimPrefix(rest, "="), " \t")
	}
	for rest != "" {
		end := " \t"
		if rest[0] == '"' {
			end, rest = `"`, rest[1:]
		}
		i := strings.IndexAny(rest, end)
		if i < 0 {
			return append(words, rest)
		}
		words, rest = append(words, rest[:i]), strings.TrimLeft(rest[i+1:], " \t")
	}
	return words
}

// sshConfigFile is a person's own ssh_config.
type sshConfigFile struct {
	// path is where it is: behind the links, which stay as they are.
	path string
	link bool
	text []byte
	info fs.FileInfo // nil where there is no file
}

// openSSHConfig reads the file at path. What other people may write is refused:
// so does ssh.
func openSSHConfig(path string) (*sshConfigFile, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, configUnusable("write", filepath.Dir(path), reason(err))
	}
	named, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &sshConfigFile{path: path}, checkConfigFolder(path)
	}
	if err != nil {
		return nil, configUnusable("read", path, reason(err))
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, configUnusable("read", path, reason(err))
	}
	f := &sshConfigFile{path: real, link: named.Mode()&fs.ModeSymlink != 0}
	if f.info, err = os.Stat(real); err != nil {
		return nil, configUnusable("read", real, reason(err))
	}
	if !f.info.Mode().IsRegular() {
		return nil, configUnusable("read", real, "it is not a file")
	}
	if err := checkConfigOwner(real, f.info); err != nil {
		return nil, err
	}
	if err := checkConfigFolder(real); err != nil {
		return nil, err
	}
	if f.text, err = readBounded(real); err != nil {
		return nil, err
	}
	return f, nil
}

func checkConfigFolder(path string) error {
	dir := filepath.Dir(path)
	info, err := os.Stat(dir)
	if err != nil {
		return configUnusable("read", dir, reason(err))
	}
	return checkConfigOwner(dir, info)
}

func configUnusable(what, path, why string) error {
	return api.Refuse(connect.CodeFailedPrecondition, "cannot %s %q: %s", what, path, why).
		WithHint("Put it right, or name another file with --ssh-config=FILE, or do it yourself: dtsh config prints what ssh needs.")
}

// replace writes the file anew, with the permissions and the owner that it had.
func (f *sshConfigFile) replace(text []byte) error {
	if err := f.write(text); err != nil {
		return configUnusable("write", f.path, reason(err))
	}
	return nil
}

func (f *sshConfigFile) write(text []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(f.path), ".config-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // after the rename there is none
	_, err = tmp.Write(text)
	if err == nil && f.info != nil {
		err = errors.Join(keepOwner(tmp, f.info), tmp.Chmod(f.info.Mode().Perm()))
	}
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	now, err := readBounded(f.path)
	if err != nil && (f.info != nil || !errors.Is(err, fs.ErrNotExist)) {
		return err
	}
	if !bytes.Equal(now, f.text) {
		return errors.New("somebody else is writing it")
	}
	if err := os.Rename(tmp.Name(), f.path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(f.path))
}

func (f *sshConfigFile) remove() error {
	if err := os.Remove(f.path); err != nil {
		return configUnusable("remove", f.path, reason(err))
	}
	return syncFolder(filepath.Dir(f.path))
}
