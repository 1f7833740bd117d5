package sshd

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"devicetrust/api"
	"devicetrust/feed"
	"devicetrust/identity/krl"
)

// Joined is what the cluster gave the server.
type Joined struct {
	Cluster, NodeID, Name string
	UserAuthorities       []ssh.PublicKey
	HostCertificate       *ssh.Certificate
	// State is the first one; nil leaves what is there, and without any the
	// helper refuses until the side-car has heard of one.
	State *feed.State
	// KRL is for RevokedKeys: sshd lets nobody in by one that it cannot read,
	// and everybody by one that is empty.
	KRL []byte
}

// check refuses what sshd could not serve with.
func (j Joined) check(hostKey ssh.PublicKey) error {
	if len(j.UserAuthorities) == 0 {
		return errors.New("the cluster named no user authority; is dtauthd older than dtnoded?")
	}
	if _, err := krl.Check(j.KRL, j.UserAuthorities); err != nil {
		return err
	}
	if j.HostCertificate == nil || j.HostCertificate.CertType != ssh.HostCert ||
		string(j.HostCertificate.Key.Marshal()) != string(hostKey.Marshal()) {
		return errors.New("the host certificate is not for sshd's key")
	}
	return nil
}

// Report is what was done.
type Report struct {
	DropIn string
	Dir    Dir
	// Reloaded tells whether the running sshd follows the configuration.
	Reloaded bool
	// Service is the systemd service of the side-car; "": none was made.
	Service string
}

// Install makes the server one of the cluster's. Where a step fails all is taken
// back, and the machine is as it was; the error says which step that was.
func (p *Prepared) Install(ctx context.Context, j Joined, now time.Time) (Report, error) {
	report := Report{DropIn: p.dropIn, Dir: p.dir}
	if err := j.check(p.HostKey); err != nil {
		return report, err
	}
	var c changes
	err := p.install(ctx, &c, j, now, &report)
	if err != nil {
		return Report{}, takenBack(err, c.rollBack())
	}
	return report, c.settle()
}

// takenBack says that nothing came of what failed by err, or what did.
func takenBack(err, undone error) error {
	hint := "Everything was taken back; sshd's configuration is as it was."
	if undone != nil {
		hint = "Not everything could be taken back, look at it before you leave: " + undone.Error()
	}
	if r, ok := errors.AsType[*api.Refusal](err); ok {
		if r.Hint != "" {
			hint = r.Hint + " " + hint
		}
		return r.WithHint("%s", hint)
	}
	return api.Refuse(connect.CodeFailedPrecondition, "%v", err).WithHint("%s", hint)
}

// install goes from what nobody reads yet to what everybody is let in by: the
// folder first, so that a configuration that names it never lacks it.
func (p *Prepared) install(ctx context.Context, c *changes, j Joined, now time.Time, report *Report) error {
	if err := p.fillDir(c, j, now); err != nil {
		return fmt.Errorf("cannot fill %s: %w", p.dir, err)
	}
	// When the drop-in has been taken back, and before its folder is.
	always := context.WithoutCancel(ctx)
	c.did("reload sshd", func() error {
		if !report.Reloaded {
			return nil
		}
		return p.reload(always)
	})
	if err := c.write(p.dropIn, dropInText(p.lines)); err != nil {
		return fmt.Errorf("cannot write %s: %w", p.dropIn, err)
	}
	if err := p.checkInForce(ctx, p.Server); err != nil {
		return err
	}
	if !p.NoReload {
		err := p.reload(ctx)
		report.Reloaded = !errors.Is(err, errNotRunning) // or half so
		if err != nil {
			return fmt.Errorf("cannot reload sshd: %w", err)
		}
	}
	if !p.systemd.runs() {
		return nil
	}
	if err := p.systemd.installService(ctx, c, unitText(p.Installation)); err != nil {
		return fmt.Errorf("cannot start the service of the side-car: %w", err)
	}
	report.Service = unitName
	return nil
}

// fillDir writes all that the configuration names. The first file says whose the
// folder is.
func (p *Prepared) fillDir(c *changes, j Joined, now time.Time) error {
	if err := c.mkdir(string(p.dir)); err != nil {
		return err
	}
	node := Node{Cluster: j.Cluster, ID: j.NodeID, Name: j.Name, Installed: now}
	if p.Before != nil && p.Before.ID == j.NodeID {
		node.Installed = p.Before.Installed
	}
	state := p.dir.StateFile(p.group)
	for _, f := range []struct {
		path  string
		write func() error
	}{
		{p.dir.NodeFile(), func() error { return p.dir.WriteNode(node) }},
		{p.dir.UserCA(), func() error { return p.dir.WriteUserCA(j.UserAuthorities) }},
		{p.dir.KRL(), func() error { return public().Write(p.dir.KRL(), j.KRL) }},
		{p.dir.HostCertificate(p.keyType), func() error {
			return public().Write(p.dir.HostCertificate(p.keyType), ssh.MarshalAuthorizedKey(j.HostCertificate))
		}},
		{state.Path + ".newest", func() error { return nil }}, // Save writes both
		{state.Path, func() error {
			if j.State == nil || p.knowsMore(state, j) {
				return nil
			}
			return state.Save(j.State)
		}},
	} {
		if err := c.replaces(f.path); err != nil {
			return err
		}
		if err := f.write(); err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(f.path), err)
		}
	}
	return nil
}

// knowsMore: the side-car has heard of a later state meanwhile.
func (p *Prepared) knowsMore(kept feed.File, j Joined) bool {
	s, err := kept.Load(j.UserAuthorities, j.Cluster, j.NodeID)
	return err == nil && s.Sequence() > j.State.Sequence()
}

// reload has the running sshd follow its configuration.
func (c Installation) reload(ctx context.Context) error {
	f, err := c.Server.settings(ctx, "")
	if err != nil {
		return err
	}
	l, err := c.Server.listening(f)
	if err == nil {
		return l.reload(ctx, c.Server)
	}
	if unit := c.bySystemd(ctx); unit != "" { // which may start it at the first connection
		return c.systemd.do(ctx, "try-reload-or-restart", unit)
	}
	return err
}
