package sshd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"devicetrust/durable"
)

// changes are what was done to a machine so far. All of it is taken back by
// rollBack, the last first, or stays with settle; the zero value is nothing.
type changes struct {
	undo []undoing
	// leftovers are what rollBack would have needed.
	leftovers []string
}

type undoing struct {
	what string
	back func() error
}

// did remembers how something is taken back.
func (c *changes) did(what string, back func() error) { c.undo = append(c.undo, undoing{what, back}) }

// rollBack takes all back. What cannot be is said, and the rest is.
func (c *changes) rollBack() error {
	var errs []error
	for _, u := range slices.Backward(c.undo) {
		if err := u.back(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", u.what, err))
		}
	}
	c.undo, c.leftovers = nil, nil
	return errors.Join(errs...)
}

// settle lets all stay.
func (c *changes) settle() error {
	var errs []error
	for _, path := range c.leftovers {
		errs = append(errs, removeThere(path))
	}
	c.undo, c.leftovers = nil, nil
	return errors.Join(errs...)
}

// aside is where the file at path is kept meanwhile: sshd's Include, like the
// shell, passes over names that begin with a dot.
func aside(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".before")
}

// replaces prepares for the file at path to be replaced, or made. The very file
// is kept, with its owner and times, under a second name.
func (c *changes) replaces(path string) error {
	kept := aside(path)
	if err := removeThere(kept); err != nil { // of a run that was killed
		return err
	}
	err := os.Link(path, kept)
	if errors.Is(err, fs.ErrNotExist) {
		c.did("remove "+path, func() error { return removeThere(path) })
		return nil
	}
	if err != nil {
		return err
	}
	c.leftovers = append(c.leftovers, kept)
	c.did("restore "+path, func() error {
		// Where both are one file still, rename(2) leaves both.
		return errors.Join(os.Rename(kept, path), removeThere(kept), durable.SyncDir(filepath.Dir(path)))
	})
	return nil
}

// write makes the file at path, or replaces it.
func (c *changes) write(path string, data []byte) error {
	if err := c.replaces(path); err != nil {
		return err
	}
	return public().Write(path, data)
}

// remove removes the file at path, where there is one.
func (c *changes) remove(path string) error {
	kept := aside(path)
	err := os.Rename(path, kept)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	c.leftovers = append(c.leftovers, kept)
	c.did("restore "+path, func() error { return errors.Join(os.Rename(kept, path), durable.SyncDir(filepath.Dir(path))) })
	return durable.SyncDir(filepath.Dir(path))
}

// mkdir makes a folder that everybody may look into, where there is none.
func (c *changes) mkdir(path string) error {
	err := os.Mkdir(path, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	c.did("remove "+path, func() error { return removeThere(path) })
	return errors.Join(os.Chmod(path, 0o755), durable.SyncDir(filepath.Dir(path))) // whatever the umask is
}

func removeThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
