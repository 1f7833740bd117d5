package sshd

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// command is a program to run, and the most that it may print.
type command struct {
	program string
	args    []string
	stdin   string
	most    int
}

// run runs it, for a bounded time, and gives what it printed. What it says on
// stderr is in the error.
func runCommand(ctx context.Context, it command) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c := exec.CommandContext(ctx, it.program, it.args...)
	stdout, stderr := &bounded{most: it.most}, &bounded{most: 4096}
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(it.stdin), stdout, stderr
	c.WaitDelay = time.Second
	c.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	err := c.Run()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err == nil && stdout.over {
		err = fmt.Errorf("it printed more than %d bytes", it.most)
	}
	if err != nil {
		said := strings.Join(strings.FieldsFunc(stderr.String(), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
		return stdout.Bytes(), fmt.Errorf("%s: %w", it.program, saying(err, said))
	}
	return stdout.Bytes(), nil
}

func saying(err error, said string) error {
	if said == "" {
		return err
	}
	return fmt.Errorf("%w: it said %.500q", err, said)
}

// bounded keeps the first bytes that are written to it.
type bounded struct {
	bytes.Buffer
	most int
	over bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if room := b.most - b.Len(); len(p) > room {
		b.over = true
		b.Buffer.Write(p[:room])
		return len(p), nil
	}
	return b.Buffer.Write(p)
}

// ask says what sshd would do with conn.
func askSSHD(ctx context.Context, program, config string, conn *connection) (Effective, error) {
	out, err := runCommand(ctx, command{program: program, args: []string{"-T", "-f", config, "-C", conn.spec()}, most: maxEffective})
	if err != nil {
		return nil, err
	}
	return ParseEffective(out)
}

// askAsIf says what sshd would do with a connection for which the block holds,
// and those around it, and no other: for where nobody is known for whom it does.
func askAsIf(ctx context.Context, program string, c *configFile, at int) (Effective, error) {
	conn := connection{user: anyUser, host: anyHost, addr: anyAddress, laddr: anyAddress, lport: anyPort}
	out, err := runCommand(ctx, command{
		program: program, args: []string{"-T", "-f", "/dev/stdin", "-C", conn.spec()}, stdin: c.asIf(at), most: maxEffective,
	})
	if err != nil {
		return nil, err
	}
	return ParseEffective(out)
}

// asIf is the configuration with no Match block but the one, and those around
// it, for everybody.
func (c *configFile) asIf(at int) string {
	around := map[int]bool{}
	for b := at; b >= 0; b = c.blocks[b].outer {
		around[b] = true
	}
	var global, matched strings.Builder
	for _, l := range c.lines {
		b := &global
		if l.block >= 0 {
			b = &matched
		}
		if l.block >= 0 && !around[l.block] {
			continue
		}
		b.WriteString(l.keyword)
		for _, arg := range l.args {
			b.WriteString(" " + quote(arg))
		}
		b.WriteByte('\n')
	}
	return global.String() + "Match all\n" + matched.String()
}

// quote is what splitWords takes apart again.
func quote(arg string) string {
	if arg != "" && !strings.ContainsAny(arg, " \t\"'\\#") {
		return arg
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(arg) + `"`
}
