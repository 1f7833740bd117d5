package sshd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"devicetrust/api"
	"devicetrust/durable"
	"devicetrust/identity"
)

// Installation is what a stock sshd is joined with.
type Installation struct {
	Server Server
	// Noded is this program, as sshd is to run it.
	Noded string
	// DataDir is where the side-car keeps what is private.
	DataDir string
	// NoReload leaves the running sshd as it is.
	NoReload bool

	systemd systemd
}

// Prepared is an Installation that was looked at; nothing is changed yet.
type Prepared struct {
	Installation
	// HostKey is the public key of sshd's that is to be certified; sshd has the
	// other half, and nobody here looks at it.
	HostKey ssh.PublicKey
	// Listens are the addresses at which sshd listens, HOST:PORT.
	Listens []string
	// Before is the node that the server is already; nil: none.
	Before *Node

	dir     Dir
	dropIn  string
	keyType string
	lines   []directive
	group   int
	lock    *os.File
}

// syncCommand is the side-car's.
func (c Installation) syncCommand() []string {
	return []string{c.Noded, "sshd", "sync", "--sshd-config=" + c.Server.Config, "--data-dir=" + c.DataDir}
}

// SyncCommand is how the side-car is started by hand.
func (c Installation) SyncCommand() string { return strings.Join(c.syncCommand(), " ") }

// refuse is what a person can mend.
func refuse(err error, hint string, args ...any) error {
	return api.Refuse(connect.CodeFailedPrecondition, "%v", err).WithHint(hint, args...)
}

// Prepare looks whether the installation would do, before anything is changed;
// the drop-in is tried on a copy. Nobody else installs until Close. Errors that a
// person can mend are *api.Refusal.
func Prepare(ctx context.Context, c Installation) (*Prepared, error) {
	if c.systemd == (systemd{}) {
		c.systemd = theSystemd()
	}
	p := &Prepared{Installation: c, dir: DirOf(c.Server.Config), dropIn: DropIn(c.Server.Config)}
	if err := checkRoot(); err != nil {
		return nil, err
	}
	for _, check := range []func(context.Context) error{
		p.checkServer, p.checkNoded, p.checkPlaces, p.takeLock, p.checkSettings, p.rehearse,
	} {
		if err := check(ctx); err != nil {
			p.Close()
			return nil, err
		}
	}
	return p, nil
}

// Close lets others install.
func (p *Prepared) Close() {
	if p.lock != nil {
		p.lock.Close()
	}
}

func (p *Prepared) takeLock(context.Context) (err error) {
	p.lock, err = lockFolder(filepath.Dir(p.Server.Config))
	return err
}

// lockFolder keeps two from changing what is beside sshd's configuration. The
// lock is on the folder itself, and leaves nothing behind.
func lockFolder(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, refuse(fmt.Errorf("somebody else is about to change %s: %w", dir, err), "Wait until that is done.")
	}
	return f, nil
}

func checkRoot() error {
	if runtime.GOOS != "linux" {
		return api.Refuse(connect.CodeFailedPrecondition, "a stock sshd can be joined on Linux only")
	}
	if os.Geteuid() != 0 {
		return api.Refuse(connect.CodeFailedPrecondition, "the configuration of sshd is root's").WithHint("Run it as root.")
	}
	return nil
}

// checkServer: a program that is sshd, new enough, and content with what it has.
func (c Installation) checkServer(ctx context.Context) error {
	s := c.Server
	if err := checkPlain(s.Config); err != nil {
		return refuse(err, "Give the path of sshd's configuration with --sshd-config.")
	}
	if err := errors.Join(checkPlain(s.Program), checkSafe(s.Program)); err != nil {
		return refuse(fmt.Errorf("sshd cannot be used: %w", err), "Install OpenSSH's server (Debian: apt-get install openssh-server), or say with --sshd where it is.")
	}
	major, minor, err := s.version(ctx)
	if err != nil {
		return refuse(err, "Say with --sshd where OpenSSH's sshd is.")
	}
	if major < leastMajor || major == leastMajor && minor < leastMinor {
		return refuse(fmt.Errorf("%s is OpenSSH %d.%d, and %d.%d is needed", s.Program, major, minor, leastMajor, leastMinor),
			"Upgrade OpenSSH, or run dtnoded itself as the SSH server: dtnoded start.")
	}
	if _, err := s.test(ctx); err != nil {
		return refuse(fmt.Errorf("sshd does not take its configuration as it is: %w", err), "Mend it first: sshd -t says what is wrong.")
	}
	return nil
}

// checkNoded: sshd runs no helper that others could replace (safe_path), and
// runs it as nobody.
func (p *Prepared) checkNoded(context.Context) error {
	err := errors.Join(checkPlain(p.Noded), checkSafe(p.Noded))
	if err == nil {
		err = checkOpen(p.Noded, 0o005)
	}
	if err != nil {
		return refuse(fmt.Errorf("sshd could not run this program as its helper: %w", err), "Install it as /usr/local/bin/dtnoded, owned by root, and run that.")
	}
	if err := checkPlain(p.DataDir); err != nil {
		return refuse(err, "Give another --data-dir.")
	}
	nobody, err := user.Lookup("nobody")
	if err == nil {
		p.group, err = strconv.Atoi(nobody.Gid)
	}
	if err != nil {
		return refuse(fmt.Errorf("the helper runs as the account nobody: %w", err), "Make the account.")
	}
	return nil
}

// checkPlaces: what we would write to is root's alone, and what lies there
// already is ours.
func (p *Prepared) checkPlaces(context.Context) error {
	const hint = "Find out who made it, and move it out of the way."
	above := filepath.Dir(p.Server.Config)
	if err := checkSafe(above); err != nil {
		return refuse(err, "Everything above sshd's configuration has to be root's alone.")
	}
	if err := checkOpen(above, 0o001); err != nil {
		return refuse(fmt.Errorf("the helper, as nobody, reads what is beside sshd's configuration: %w", err), "chmod o+x it.")
	}
	confs := filepath.Dir(p.dropIn)
	if there, err := checkMade(confs, true); err != nil {
		return refuse(err, "Make it root's alone.")
	} else if !there {
		return refuse(fmt.Errorf("there is no folder %s", confs), "Make it: install -d -m 0755 %s", confs)
	}
	if _, err := checkDropIn(p.dropIn); err != nil {
		return refuse(err, hint)
	}
	if _, err := checkMade(aside(p.dropIn), false); err != nil {
		return refuse(err, hint)
	}
	if err := p.checkDir(); err != nil {
		return refuse(err, hint)
	}
	if p.systemd.runs() {
		there, ours, err := p.service()
		if err == nil && there && !ours {
			err = fmt.Errorf("%s is the side-car of another sshd of this machine", p.systemd.unit())
		}
		if err != nil {
			return refuse(err, "One sshd of a machine can have the service: take the other one out first (dtnoded sshd uninstall).")
		}
	}
	node, err := p.dir.ReadNode()
	switch {
	case err == nil:
		p.Before = &node
	case !errors.Is(err, fs.ErrNotExist):
		return refuse(err, "Remove the file, and install again.")
	}
	return nil
}

// checkDir: the folder, where it is there, and the files of ours in it.
func (p *Prepared) checkDir() error {
	there, err := checkMade(string(p.dir), true)
	if !there || err != nil {
		return err
	}
	for _, path := range p.dir.files() {
		for _, name := range []string{path, aside(path)} {
			if _, err := checkMade(name, false); err != nil {
				return err
			}
		}
	}
	if isThere(p.dir.NodeFile()) {
		return nil
	}
	entries, err := os.ReadDir(string(p.dir))
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") { // of a run that was killed
			return fmt.Errorf("%s is there, and dtnoded has not made it", p.dir)
		}
	}
	return err
}

// hostKeyTypes are those that a host key may be of, the preferred first.
var hostKeyTypes = []string{"ed25519", "ecdsa", "rsa"}

// files are all that there may be in the folder. The node's file is the last to
// go: without it the folder is nobody's.
func (d Dir) files() []string {
	state := d.StateFile(0).Path
	all := []string{d.UserCA(), d.KRL(), state, state + ".newest"}
	for _, t := range hostKeyTypes {
		all = append(all, d.HostCertificate(t))
	}
	return append(all, d.NodeFile())
}

// checkSettings takes from sshd's settings what is needed.
func (p *Prepared) checkSettings(ctx context.Context) error {
	f, err := p.Server.settings(ctx, "")
	if err != nil {
		return err
	}
	if p.Listens = listensAt(f); len(p.Listens) == 0 {
		return refuse(errors.New("sshd listens nowhere"), "Mend its configuration first.")
	}
	if err := p.findHostKey(f["hostkey"]); err != nil {
		return err
	}
	p.lines = dropInLines(p.dir, p.Noded, p.keyType)
	if p.NoReload {
		return nil
	}
	if _, err := p.Server.listening(f); err != nil && p.bySystemd(ctx) == "" {
		return refuse(err, "With --no-reload the configuration is made all the same, for when sshd starts.")
	}
	return nil
}

// bySystemd is the service that is told to read its configuration; "" where
// systemd does not run this sshd.
func (c Installation) bySystemd(ctx context.Context) string {
	if c.Server.Config != defaultConfig || !c.systemd.runs() {
		return ""
	}
	return c.systemd.sshUnit(ctx)
}

// findHostKey takes the public half of one of sshd's host keys. A file that
// others may change could name a key of theirs, which would be certified.
func (p *Prepared) findHostKey(paths []string) error {
	found := map[string]ssh.PublicKey{}
	var errs []error
	for _, path := range paths {
		key, err := readHostKey(path + ".pub")
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if t := keyType(key); found[t] == nil {
			found[t] = key
		}
	}
	for _, t := range hostKeyTypes {
		if found[t] != nil {
			p.HostKey, p.keyType = found[t], t
			return nil
		}
	}
	return refuse(fmt.Errorf("sshd has no host key that can be certified: %w", errors.Join(append(errs, errors.New("Ed25519, ECDSA and RSA can be"))...)),
		"Make one (ssh-keygen -A), or its public half: ssh-keygen -y -f KEY >KEY.pub")
}

func readHostKey(path string) (ssh.PublicKey, error) {
	if err := checkSafe(path); err != nil {
		return nil, err
	}
	text, err := durable.Read(path, maxPublicKey)
	if err != nil {
		return nil, err
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if err == nil {
		err = identity.CheckSSHKey(key)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// keyType is what a file with such a key is called by.
func keyType(key ssh.PublicKey) string {
	switch key.Type() {
	case ssh.KeyAlgoED25519:
		return "ed25519"
	case ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521:
		return "ecdsa"
	case ssh.KeyAlgoRSA:
		return "rsa"
	}
	return ""
}

// connections by which it is asked whether the drop-in is in force: sshd's
// settings before any Match block, and what holds for root and for the account
// that the helper runs as, who stands for everybody. `dtnoded sshd audit` asks
// about every Match block.
var connections = []string{"", "user=root,host=localhost,addr=127.0.0.1", "user=nobody,host=localhost,addr=127.0.0.1"}

// checkInForce asks sshd whether it takes the configuration of s with our part,
// and whether nothing else wins over a line of it.
func (p *Prepared) checkInForce(ctx context.Context, s Server) error {
	complaints, err := s.test(ctx)
	if err != nil {
		return refuse(fmt.Errorf("sshd does not take its configuration with %s: %w", p.dropIn, err), "Mend what it names, and install again.")
	}
	certificate := p.dir.HostCertificate(p.keyType)
	if isThere(certificate) && strings.Contains(complaints, certificate) {
		return refuse(fmt.Errorf("sshd does not take its host certificate: %s", complaints),
			"Is the public half of its host key that of the key? ssh-keygen -y -f KEY >KEY.pub")
	}
	if err := p.checkFirst(s.Config); err != nil {
		return err
	}
	for _, connection := range connections {
		f, err := s.settings(ctx, connection)
		if err != nil {
			return err
		}
		if wrong := overruled(p.lines, f); wrong != "" {
			where := ""
			if connection != "" {
				where = fmt.Sprintf(" for %s", strings.Split(connection, ",")[0])
			}
			return refuse(fmt.Errorf("another line of sshd's configuration wins over %s: %s%s", p.dropIn, wrong, where),
				"Remove that line (of %s before its Include, of a Match block, or of a file before ours) and install again.", p.Server.Config)
		}
	}
	return nil
}

// checkFirst refuses another helper than ours before ours. OpenSSH 8.7 to 9.3
// take the last one before a program for keys, and say nothing of the other; all
// else takes the first (servconf.c, bug 3574). Who upgrades sshd would have the
// other one decide.
func (p *Prepared) checkFirst(config string) error {
	c, err := readConfig(config)
	if err != nil {
		return refuse(fmt.Errorf("sshd's configuration cannot be read: %w", err), "Make it simpler, and install again.")
	}
	for _, l := range c.lines {
		if samePath(l.file, DropIn(config)) {
			return nil
		}
		if l.keyword == "authorizedprincipalscommand" && l.block < 0 {
			return refuse(fmt.Errorf("line %d of %s names another program with AuthorizedPrincipalsCommand, which stands before ours", l.number, filepath.Base(l.file)),
				"Remove that line (of %s before its Include, or of a file before ours) and install again.", p.Server.Config)
		}
	}
	return nil
}
