package main

import (
	"runtime/debug"
	"strings"
	"testing"

	"devicetrust/cmd/internal/cli"
)

func TestSshdIsAnsweredBeforeAnythingElseIsMadeReady(t *testing.T) {
	percent, limit := debug.SetGCPercent(100), debug.SetMemoryLimit(-1)
	defer func() { debug.SetGCPercent(percent); debug.SetMemoryLimit(limit) }()
	for line, asked := range map[string]bool{
		"":                             false,
		"start":                        false,
		"sshd":                         false,
		"sshd principals":              false,
		"sshd principals --help":       false,
		"sshd principals x --dir=/x":   false,
		"start principals --dir=/x":    false,
		"sshd install --dir=/x":        false,
		"sshd principals --dir=/x":     true,
		"sshd principals --dir=/x a b": true,
	} {
		status, got := answerSshd(strings.Fields(line))
		if got != asked || asked && status != 2 || !asked && status != 0 {
			t.Errorf("%q: asked %v, status %d", line, got, status)
		}
	}
}

func TestTheHelperIsACommandLikeOthers(t *testing.T) {
	for line, want := range map[string]int{
		"sshd":                              2,
		"sshd principals":                   2,
		"sshd principals --dir=/x":          2,
		"sshd principals 1 2 3 4 5 6 7 8 9": 2,
		"sshd principals --help":            0,
		// The arguments are enough, and no certificate.
		"sshd principals 1 2 3 4 5 6 7 8 9 --dir=/x": 2,
	} {
		var stdout, stderr strings.Builder
		env := &cli.Env{Args: strings.Fields(line), Stdout: &stdout, Stderr: &stderr}
		if status := cli.Run(t.Context(), env, newRoot); status != want || want != 0 && stdout.Len() > 0 {
			t.Errorf("%q: status %d, %q, %q", line, status, &stdout, &stderr)
		}
	}
}
