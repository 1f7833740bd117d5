package sshd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"devicetrust/durable"
)

// Uninstalled is what was done.
type Uninstalled struct {
	// Nothing was installed; the rest is empty then.
	Nothing bool
	// Node is what the server was; nil where that is not known.
	Node     *Node
	Reloaded bool
	// Kept is the folder, where it has to stay until sshd was reloaded, or has
	// in it what is not ours.
	Kept string
	// Service is the systemd service that was ended; "": there was none.
	Service string
}

// Uninstall takes away what Install made, and gives sshd back what it had. Where
// a step fails all is put back.
func Uninstall(ctx context.Context, i Installation) (Uninstalled, error) {
	if i.systemd == (systemd{}) {
		i.systemd = theSystemd()
	}
	done := Uninstalled{}
	if err := checkRoot(); err != nil {
		return done, err
	}
	if err := checkPlain(i.Server.Config); err != nil {
		return done, refuse(err, "Give the path of sshd's configuration with --sshd-config.")
	}
	if !isThere(filepath.Dir(i.Server.Config)) {
		return Uninstalled{Nothing: true}, nil
	}
	lock, err := lockFolder(filepath.Dir(i.Server.Config))
	if err != nil {
		return done, err
	}
	defer lock.Close()
	r := &removal{Installation: i, dir: DirOf(i.Server.Config), dropIn: DropIn(i.Server.Config)}
	if there, err := r.look(); err != nil {
		return done, refuse(err, "Nothing was changed.")
	} else if !there {
		return Uninstalled{Nothing: true}, nil
	}
	if node, err := r.dir.ReadNode(); err == nil {
		done.Node = &node
	}
	var c changes
	if err := r.remove(ctx, &c, &done); err != nil {
		return Uninstalled{}, takenBack(err, c.rollBack())
	}
	if err := c.settle(); err != nil {
		return done, err
	}
	if i.NoReload && r.hadDropIn {
		done.Kept = string(r.dir) // the running sshd reads it yet
		return done, nil
	}
	return done, r.removeDir(&done)
}

// removal is an Uninstall on its way.
type removal struct {
	Installation
	dir                        Dir
	dropIn                     string
	hadDropIn, hadDir, hadUnit bool
}

// look finds what is installed, and refuses what others may have put there.
func (r *removal) look() (there bool, err error) {
	var errs [3]error
	if err := checkSafe(filepath.Dir(r.Server.Config)); err != nil {
		return false, err
	}
	r.hadDropIn, errs[0] = checkDropIn(r.dropIn)
	r.hadDir, errs[1] = checkMade(string(r.dir), true)
	if r.hadDir && errs[1] == nil && !isThere(r.dir.NodeFile()) && !r.hadDropIn {
		r.hadDir = false // somebody else's
	}
	if r.systemd.runs() {
		_, r.hadUnit, errs[2] = r.service()
	}
	return r.hadDropIn || r.hadDir || r.hadUnit, errors.Join(errs[:]...)
}

// remove takes away the configuration, has sshd follow, and ends the side-car.
func (r *removal) remove(ctx context.Context, c *changes, done *Uninstalled) error {
	_, broken := r.Server.test(ctx)
	always := context.WithoutCancel(ctx)
	c.did("reload sshd", func() error {
		if !done.Reloaded {
			return nil
		}
		return r.reload(always)
	})
	if err := c.remove(r.dropIn); err != nil {
		return err
	}
	if _, err := r.Server.test(ctx); err != nil {
		if broken != nil {
			return fmt.Errorf("sshd does not take its configuration, with our part and without: %w", err)
		}
		return fmt.Errorf("sshd does not take its configuration without our part: %w", err)
	}
	if !r.NoReload {
		err := r.reload(ctx)
		done.Reloaded = !errors.Is(err, errNotRunning)
		if err != nil && done.Reloaded {
			return fmt.Errorf("cannot reload sshd: %w", err)
		}
	}
	if !r.hadUnit {
		return nil
	}
	if err := r.systemd.removeService(ctx, c); err != nil {
		return fmt.Errorf("cannot end the service of the side-car: %w", err)
	}
	done.Service = unitName
	return nil
}

// removeDir removes what we have made, and leaves what we have not.
func (r *removal) removeDir(done *Uninstalled) error {
	if !r.hadDir {
		return nil
	}
	for _, path := range r.dir.files() {
		left, err := filepath.Glob(filepath.Join(string(r.dir), "."+filepath.Base(path)+".*")) // of runs that were killed
		if err != nil {
			return err
		}
		for _, name := range append(left, path) {
			if err := removeThere(name); err != nil {
				return err
			}
		}
	}
	if entries, err := os.ReadDir(string(r.dir)); err != nil || len(entries) > 0 {
		done.Kept = string(r.dir)
		return err
	}
	return errors.Join(os.Remove(string(r.dir)), durable.SyncDir(filepath.Dir(string(r.dir))))
}
