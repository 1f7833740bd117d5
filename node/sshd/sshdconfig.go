package sshd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// Server is a stock sshd with one of its configurations.
type Server struct {
	// Program is its path.
	Program string
	// Config is the file that it reads.
	Config string
}

// run gives what sshd prints, and as an error what it complains of.
func (s Server) run(ctx context.Context, args ...string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(ctx, sshdRunTimeout)
	defer cancel()
	out, complaints := &boundedBuffer{most: maxPrintedBySSHD}, &boundedBuffer{most: maxPrintedBySSHD}
	cmd := exec.CommandContext(ctx, s.Program, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.Stdout, cmd.Stderr = out, complaints
	err = cmd.Run()
	return out.String(), strings.TrimSpace(complaints.String()), err
}

// test asks sshd whether it could start with the configuration as it is, and
// gives what it complains of all the same.
func (s Server) test(ctx context.Context) (complaints string, err error) {
	_, complaints, err = s.run(ctx, "-t", "-f", s.Config)
	if err != nil {
		return complaints, fmt.Errorf("%s -t -f %s: %w: %s", s.Program, s.Config, err, complaints)
	}
	return complaints, nil
}

// inForce are the settings that sshd would follow, as it prints them: the name
// in lower case, and every value in the order of the print.
type inForce map[string][]string

// one is the value of a setting that has one; "" where it has not.
func (f inForce) one(name string) string {
	if v := f[name]; len(v) == 1 {
		return v[0]
	}
	return ""
}

// settings asks sshd what holds; connection, where it is not empty, is a test
// specification (sshd(8), -C) by which Match blocks are chosen.
func (s Server) settings(ctx context.Context, connection string) (inForce, error) {
	args := []string{"-T", "-f", s.Config}
	if connection != "" {
		args = append(args, "-C", connection)
	}
	out, complaints, err := s.run(ctx, args...)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", s.Program, strings.Join(args, " "), err, complaints)
	}
	return parseInForce(out), nil
}

func parseInForce(text string) inForce {
	f := inForce{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if name != "" {
			f[strings.ToLower(name)] = append(f[strings.ToLower(name)], strings.TrimSpace(value))
		}
	}
	return f
}

var versionPattern = regexp.MustCompile(`OpenSSH_(\d{1,4})\.(\d{1,4})`)

// version is that of the program. Where it does not know -V (9.2 of Debian), it prints
// its version with the complaint about that.
func (s Server) version(ctx context.Context) (major, minor int, err error) {
	out, complaints, err := s.run(ctx, "-V")
	if found := versionPattern.FindStringSubmatch(out + complaints); found != nil {
		major, _ = strconv.Atoi(found[1])
		minor, _ = strconv.Atoi(found[2])
		return major, minor, nil
	}
	if err == nil {
		err = errors.New("it does not say")
	}
	return 0, 0, fmt.Errorf("the version of %s is not known: %w", s.Program, err)
}

// boundedBuffer keeps the first most bytes.
type boundedBuffer struct {
	bytes.Buffer
	most int
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	if room := b.most - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
