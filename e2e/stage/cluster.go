package stage

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Daemon is a dtauthd, a dtnoded or an sshd that serves.
type Daemon struct {
	*Process
	DataDir string
	// Addr is host:port of its service.
	Addr string

	stage   *Stage
	command Command
	// ready is what it prints when it serves; nil: what ours do, with Addr.
	ready *regexp.Regexp
	// sameArgs: it starts again as it did.
	sameArgs bool
}

var serving = regexp.MustCompile(`msg=serving (?:port=(?:https|ssh) )?addr=(\S+)`)

// Authd starts a dtauthd in DIR/NAME. Flags come after those that it needs
// to run beside others, and so win over them.
func (s *Stage) Authd(ctx context.Context, name string, flags ...string) (*Daemon, error) {
	d := &Daemon{stage: s, DataDir: filepath.Join(s.Dir, name)}
	d.command = Command{Name: name, Program: "dtauthd", Args: append([]string{"start",
		"--data-dir=" + d.DataDir,
		"--cluster-name=example",
		"--listen=127.0.0.1:0",
		"--diag-listen=127.0.0.1:0",
	}, flags...)}
	return d, d.start(ctx)
}

// Noded lets a dtnoded called name join the cluster of authd.
func (s *Stage) Noded(ctx context.Context, authd *Daemon, name string, flags ...string) (*Daemon, error) {
	join, err := authd.JoinToken(ctx)
	if err != nil {
		return nil, err
	}
	d := &Daemon{stage: s, DataDir: filepath.Join(s.Dir, name)}
	d.command = Command{Name: name, Program: "dtnoded", Args: append([]string{"start",
		"--data-dir=" + d.DataDir,
		"--auth-server=" + authd.Addr,
		"--token=" + join.Token,
		"--ca-pin=" + join.CAPins[0],
		"--listen=127.0.0.1:0",
		"--nodename=" + name,
	}, flags...)}
	return d, d.start(ctx)
}

func (d *Daemon) start(ctx context.Context) error {
	p, err := d.stage.Start(d.command)
	if err != nil {
		return err
	}
	d.Process = p
	if d.ready != nil {
		_, err := p.WaitLog(ctx, d.ready)
		return err
	}
	found, err := p.WaitLog(ctx, serving)
	if err != nil {
		return err
	}
	d.Addr = found[1]
	return nil
}

// Restart starts it again, where it served before.
func (d *Daemon) Restart(ctx context.Context) error {
	if !d.Ended() {
		return fmt.Errorf("%s runs", d.Name)
	}
	if d.sameArgs {
		return d.start(ctx)
	}
	const flag = "--listen="
	d.command.Args = slices.DeleteFunc(d.command.Args, func(a string) bool { return strings.HasPrefix(a, flag) })
	d.command.Args = append(d.command.Args, flag+d.Addr)
	return d.start(ctx)
}

// HandOver has a dtnoded hand over, and is its successor then; the one before
// is on the stage until it ends.
func (d *Daemon) HandOver(ctx context.Context) error {
	if err := d.Signal(syscall.SIGHUP); err != nil {
		return err
	}
	found, err := d.WaitLog(ctx, regexp.MustCompile(fmt.Sprintf(`msg="handed over;.* pid=%d successor=(\d+)`, d.PID())))
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(found[1])
	if err != nil {
		return err
	}
	d.Process, err = d.stage.adopt(pid, d.Process)
	return err
}

// Limit sets ulimit's arguments for the next start.
func (d *Daemon) Limit(ulimit string) { d.command.Limits = ulimit }

// DTCtl runs dtctl on a dtauthd's admin socket.
func (d *Daemon) DTCtl(ctx context.Context, args ...string) (string, error) {
	return d.stage.Output(ctx, []string{"DTCTL_DATA_DIR=" + d.DataDir}, "dtctl", args...)
}

// Join is what `dtctl tokens add --format=json` prints.
type Join struct {
	Token  string   `json:"token"`
	CAPins []string `json:"ca_pins"`
}

// JoinToken makes a token with which a node may join.
func (d *Daemon) JoinToken(ctx context.Context) (Join, error) {
	var j Join
	out, err := d.DTCtl(ctx, "tokens", "add", "--type=node", "--format=json")
	if err != nil {
		return j, err
	}
	if err := json.Unmarshal([]byte(out), &j); err != nil {
		return j, fmt.Errorf("tokens add: %w in %s", err, out)
	}
	if j.Token == "" || len(j.CAPins) == 0 {
		return j, fmt.Errorf("tokens add gave %s", out)
	}
	return j, nil
}

// Pin is the digest of the key that vouches for the cluster's servers:
// computed here from the exported authority, so that what dtauthd prints can
// be compared with it.
func (d *Daemon) Pin(ctx context.Context) (string, error) {
	out, err := d.DTCtl(ctx, "auth", "export", "--type=tls")
	if err != nil {
		return "", err
	}
	block, _ := pem.Decode([]byte(out))
	if block == nil {
		return "", errors.New("auth export --type=tls gave no PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// DMI writes what a machine's firmware tells of it, as Linux shows it in
// /sys/class/dmi/id: a serial number that serves as asset tag, and one field
// that nobody filled in.
func DMI(dir, serial string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"sys_vendor":        "Example",
		"product_name":      "Book 14",
		"product_serial":    serial,
		"board_serial":      "Default string",
		"chassis_asset_tag": "To Be Filled By O.E.M.",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// CommandLine is how the daemon was started, as one would type it.
func (d *Daemon) CommandLine() string {
	return d.command.Program + " " + strings.Join(d.command.Args, " ")
}
