package sshd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"devicetrust/durable"
)

// rehearse has sshd say what it would make of the drop-in, on a copy: an sshd
// that somebody started meanwhile, or after a loss of power, would let nobody in
// by a drop-in whose files are not there.
func (p *Prepared) rehearse(ctx context.Context) (err error) {
	text, err := durable.Read(p.Server.Config, maxIncluding)
	if err != nil {
		return err
	}
	words := includes(text, p.dropIn)
	if words == nil {
		return refuse(fmt.Errorf("%s does not include %s before its first Match block", p.Server.Config, p.dropIn),
			"Put this line at its top: %s", includeLine(p.Server.Config))
	}
	if err := p.tryPlaces(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "dtnoded-sshd-") // 0700
	if err != nil {
		return err
	}
	defer func() { err = withError(err, os.RemoveAll(dir)) }()
	s := Server{Program: p.Server.Program, Config: filepath.Join(dir, "sshd_config")}
	if err := p.copyConfig(s.Config, string(text), words); err != nil {
		return err
	}
	return p.checkInForce(ctx, s)
}

// copyConfig makes a configuration at config as p's will be: the files that are
// included with ours are the same ones.
func (p *Prepared) copyConfig(config, text string, words []string) error {
	included := filepath.Dir(DropIn(config))
	for _, word := range words {
		text = strings.ReplaceAll(text, word, filepath.Join(included, filepath.Base(word)))
	}
	if err := os.Mkdir(included, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(filepath.Dir(p.dropIn))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == filepath.Base(p.dropIn) {
			continue
		}
		if err := os.Symlink(filepath.Join(filepath.Dir(p.dropIn), e.Name()), filepath.Join(included, e.Name())); err != nil {
			return err
		}
	}
	if err := os.WriteFile(DropIn(config), dropInText(p.lines), 0o600); err != nil {
		return err
	}
	return os.WriteFile(config, []byte(text), 0o600)
}

// tryPlaces writes to both folders, where nobody looks, before a token is spent.
func (p *Prepared) tryPlaces() error {
	var c changes
	err := c.mkdir(string(p.dir))
	for _, path := range []string{p.dropIn, p.dir.NodeFile()} {
		if err == nil {
			err = c.write(aside(path), dropInText(p.lines))
		}
	}
	if err = withError(err, c.rollBack()); err != nil {
		return refuse(fmt.Errorf("cannot write beside sshd's configuration: %w", err), "Nothing was changed.")
	}
	return nil
}

// withError is err, and another where there is one: what is one error stays it.
func withError(err, another error) error {
	if another == nil {
		return err
	}
	return errors.Join(err, another)
}
