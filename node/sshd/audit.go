package sshd

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Severity is what a finding means.
type Severity string

const (
	// SeverityOpen is a way around: somebody gets in, or does something, without the
	// decision of the cluster's policy. What cannot be judged is open.
	SeverityOpen Severity = "open"
	// SeverityNote is what weakens revocation or the record, or keeps people out, and is
	// no way in.
	SeverityNote Severity = "note"
)

// Finding is one thing that the audit found. Code and Severity are stable.
type Finding struct {
	Code     string   `json:"code"`
	Severity Severity `json:"severity"`
	// For are the criteria of those for whom it holds, as they are written in
	// Match; empty where it holds for everybody.
	For []string `json:"for"`
	// Setting of sshd, or the file or program, which has Value and should have
	// Want.
	Setting string `json:"setting"`
	Value   string `json:"value"`
	Want    string `json:"want"`
	// File and Line are where it can be found; empty and 0 where it is a default.
	File    string `json:"file"`
	Line    int    `json:"line"`
	Problem string `json:"problem"`
	Remedy  string `json:"remedy"`
}

// AuditConfig is what is audited.
type AuditConfig struct {
	SSHDConfig string // file
	SSHD       string // program
	// DataDir has what only the side-car reads.
	DataDir string
	// Program is dtnoded itself, which the helper has to be.
	Program string
	// Proc is where the system shows its processes: /proc.
	Proc string
	// DefaultConfig is what sshd reads where it is not told: /etc/ssh/sshd_config.
	DefaultConfig string
	Now           func() time.Time
}

// auditor is one audit.
type auditor struct {
	AuditConfig
	dir    Dir
	config *configFile
	// baseline is what holds where no Match block does; nil where sshd did not
	// say.
	baseline Effective
	answers  []answer
	findings []Finding
	// holders are for each finding those of the answers of which it holds.
	holders map[findingKey]*holder
}

// answer is what sshd said of a connection, or of one for which the Match block
// asIf holds, where that is not -1.
type answer struct {
	conn  connection
	asIf  int
	plain bool // no Match block holds
	Effective
}

// Audit names every way around the cluster's policy that sshd's configuration
// leaves open, and what weakens it, in a stable order. There are none where it
// is as it is installed.
func Audit(ctx context.Context, c AuditConfig) ([]Finding, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("sshd's configuration and keys are root's: run it as root")
	}
	var err error
	if c.SSHDConfig, err = filepath.Abs(c.SSHDConfig); err != nil {
		return nil, err
	}
	a := &auditor{AuditConfig: c, dir: DirOf(c.SSHDConfig), holders: map[findingKey]*holder{}}
	a.version(ctx)
	a.ask(ctx)
	a.settings()
	a.permissions()
	a.trust()
	a.hostCertificates()
	a.processes()
	a.gather()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	slices.SortStableFunc(a.findings, func(x, y Finding) int {
		return cmp.Or(cmp.Compare(rank(x), rank(y)), cmp.Compare(x.Code, y.Code), cmp.Compare(x.File, y.File),
			cmp.Compare(x.Line, y.Line), cmp.Compare(x.Setting, y.Setting), cmp.Compare(x.Value, y.Value),
			slices.Compare(x.For, y.For))
	})
	return a.findings, nil
}

func rank(f Finding) int {
	if f.Severity == SeverityOpen {
		return 0
	}
	return 1
}

func (a *auditor) add(f Finding) {
	if f.For == nil {
		f.For = []string{}
	}
	a.findings = append(a.findings, f)
}

// unknown says that it cannot be told what sshd does.
func (a *auditor) unknown(err error) {
	a.add(Finding{
		Code: "config-unreadable", Severity: SeverityOpen, Setting: "sshd_config", Value: brief(err.Error()), File: a.SSHDConfig,
		Problem: "What sshd does cannot be told from its configuration: " + brief(err.Error()) + ".",
		Remedy:  "Correct it until `sshd -t` is content, and audit again.",
	})
}

// ask reads the configuration and asks sshd about all whom it tells apart.
func (a *auditor) ask(ctx context.Context) {
	var err error
	if a.config, err = readConfig(a.SSHDConfig); err != nil {
		a.config = &configFile{files: []string{a.SSHDConfig}}
		a.unknown(err)
		return
	}
	all, err := accounts(ctx, a.config.groupNames())
	if err != nil {
		a.unknown(err)
	}
	plain := connection{user: anyUser, host: anyHost, addr: anyAddress, laddr: anyAddress, lport: anyPort}
	conns, err := a.config.connections(all)
	if err != nil {
		a.unknown(err)
		conns = []connection{plain}
	}
	for _, conn := range conns {
		e, err := askSSHD(ctx, a.SSHD, a.SSHDConfig, &conn)
		if err != nil {
			a.unknown(err)
			return
		}
		a.answers = append(a.answers, answer{conn, -1, a.config.signature(&conn) == "", e})
	}
	a.baseline = a.answers[0].Effective
	a.askUnreached(ctx)
}

// askUnreached asks about the Match blocks that hold for nobody who is known, as
// of a group of a directory that does not tell its members.
func (a *auditor) askUnreached(ctx context.Context) {
	for i := range a.config.blocks {
		if a.reached(i) {
			continue
		}
		e, err := askAsIf(ctx, a.SSHD, a.config, i)
		if err != nil {
			a.unknown(err)
			return
		}
		a.answers = append(a.answers, answer{a.answers[0].conn, i, false, e})
	}
}

// reached also where it never holds.
func (a *auditor) reached(block int) bool {
	for _, by := range a.config.blocks[block].criteria {
		if by.kind == byInvalidUser {
			return true
		}
	}
	return slices.ContainsFunc(a.answers, func(w answer) bool {
		holds, known := a.config.holds(block, &w.conn)
		return w.asIf < 0 && holds && known
	})
}

func brief(s string) string {
	if len(s) <= maxBrief {
		return s
	}
	return s[:maxBrief] + "…"
}
