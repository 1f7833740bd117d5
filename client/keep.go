package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// keep stores a login: keys, certificates and the nodes' authorities in one
// step, then the profile that speaks of them. A login that was there
// before is replaced: remembered where it is one of the same person, else
// returned, to be ended, where it can be used. Or it stays as it was where
// anything fails.
func (p *Profile) keep(ctx context.Context, c Credentials, hosts []ssh.PublicKey, now time.Time) (before *leaver, err error) {
	if err := checkFileUser(p.User); err != nil {
		return nil, err
	}
	files, err := c.files(p.User)
	if err != nil {
		return nil, err
	}
	unlock, err := p.home.Lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	// As it is now: another login may have come in between.
	if stored, err := p.home.Profile(p.Proxy); err == nil {
		before = p.replace(stored, now)
	}
	files[knownHostsFile] = knownHosts(hosts)
	folder, err := p.home.replaceFolder(files, "keys", fileName(p.Proxy))
	if err != nil {
		return nil, err
	}
	if err := p.keepProfile(); err != nil {
		return nil, errors.Join(err, folder.undo())
	}
	folder.settle()
	return before, nil
}

// replace has p remember the login of stored, which it takes the place of:
// shells go on while a person logs in again. That of another person, or in
// another cluster, is given back. No more than maxReplaced are remembered; an
// older one lasts until it expires.
func (p *Profile) replace(stored *Profile, now time.Time) (leaving *leaver) {
	creds, err := stored.Credentials()
	same := stored.User == p.User && stored.Cluster == p.Cluster
	switch {
	case same:
		p.replaced = stored.replaced
		if err == nil {
			p.replaced = append(p.replaced, replacedLogin{creds.SSH.Serial, creds.ValidUntil().UTC()})
		}
		p.replaced = slices.DeleteFunc(p.replaced, func(r replacedLogin) bool { return !now.Before(r.ValidUntil) })
		p.replaced = p.replaced[max(0, len(p.replaced)-maxReplaced):]
	case err == nil:
		leaving = stored.leaver(creds)
	}
	return leaving
}

// keepProfile stores p and makes it the current one, or does neither.
func (p *Profile) keepProfile() error {
	name := []string{"profiles", fileName(p.Proxy) + ".json"}
	before, beforeErr := p.home.read(name...)
	if err := p.save(); err != nil {
		return err
	}
	err := p.makeCurrent()
	switch {
	case err == nil:
		return nil
	case beforeErr == nil:
		return errors.Join(err, p.home.write(before, name...))
	case errors.Is(beforeErr, fs.ErrNotExist):
		return errors.Join(err, os.Remove(p.home.path(name...)))
	}
	return err // what was there was of no use
}

// knownHosts has every host certified by one of the authorities, and no other
// (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT). The file is for this cluster only,
// so its pattern may be that wide.
func knownHosts(authorities []ssh.PublicKey) []byte {
	var b bytes.Buffer
	for _, a := range authorities {
		fmt.Fprintf(&b, "@cert-authority * %s", ssh.MarshalAuthorizedKey(a))
	}
	return b.Bytes()
}

// HostAuthorities are the cluster's SSH host authorities, as of the last
// login.
func (p *Profile) HostAuthorities() ([]ssh.PublicKey, error) {
	data, err := p.home.read("keys", fileName(p.Proxy), knownHostsFile)
	if err != nil {
		return nil, unreadable(p.keyPath(knownHostsFile), err)
	}
	var all []ssh.PublicKey
	for len(data) > 0 {
		marker, _, key, _, rest, err := ssh.ParseKnownHosts(data)
		if err != nil {
			break
		}
		if marker == "cert-authority" {
			all = append(all, key)
		}
		data = rest
	}
	if len(all) == 0 {
		return nil, unreadable(p.keyPath(knownHostsFile), errors.New("it holds no authority"))
	}
	return all, nil
}

// replacement is a folder that has taken another's place.
type replacement struct {
	dir string
	// before is where what was in dir is now, if there was anything.
	before string
}

// undo puts back what was there.
func (r replacement) undo() error {
	_, err := os.Stat(r.before)
	if err == nil {
		err = exchange(r.before, r.dir)
		r.settle()
	} else if errors.Is(err, fs.ErrNotExist) {
		err = os.RemoveAll(r.dir)
	}
	if err != nil {
		return unwritable(r.dir, err)
	}
	return nil
}

// settle removes what was there. Whatever of it stays, the next logout
// removes.
func (r replacement) settle() { _ = os.RemoveAll(r.before) }

// replaceFolder writes files into a new folder and puts it in the place of
// the one named. Undo or settle what it gives.
func (h *Home) replaceFolder(files map[string][]byte, elem ...string) (replacement, error) {
	dir := h.path(elem...)
	if err := h.folder(elem[:len(elem)-1]...); err != nil {
		return replacement{}, err
	}
	sweep(filepath.Dir(dir))
	fresh, err := os.MkdirTemp(filepath.Dir(dir), ".new-*") // 0700
	if err != nil {
		return replacement{}, unwritable(dir, err)
	}
	r := replacement{dir: dir, before: fresh}
	for name, data := range files {
		if err := writeFile(filepath.Join(fresh, name), data); err != nil {
			r.settle()
			return replacement{}, unwritable(filepath.Join(dir, name), err)
		}
	}
	if err := exchange(fresh, dir); err != nil {
		r.settle()
		return replacement{}, unwritable(dir, err)
	}
	if err := syncFolder(filepath.Dir(dir)); err != nil {
		return replacement{}, errors.Join(unwritable(dir, err), r.undo())
	}
	return r, nil
}

// sweep removes the folders of programs that were killed here: private keys of a
// login that was replaced may be in them. Whoever has one in use has the lock.
func sweep(dir string) {
	entries, _ := os.ReadDir(dir) // whatever is wrong shows when we write there
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".new-") {
			_ = os.RemoveAll(filepath.Join(dir, e.Name())) // what stays, the next logout removes
		}
	}
}

// moveInto exchanges the folders fresh and dir in three steps, for systems
// that cannot do it in one. A crash in between leaves the login without keys,
// which says so and asks to log in again.
func moveInto(fresh, dir string) error {
	old := fresh + ".old"
	err := os.Rename(dir, old)
	if errors.Is(err, fs.ErrNotExist) {
		return os.Rename(fresh, dir)
	}
	if err != nil {
		return err
	}
	if err := os.Rename(fresh, dir); err != nil {
		return errors.Join(err, os.Rename(old, dir))
	}
	return os.Rename(old, fresh)
}
