package cli

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
)

// Log returns the logger that --debug and --log-format ask for. It writes to
// stderr. Call it inside a command, when the flags have been read.
func (e *Env) Log() *slog.Logger {
	level := e.LogLevel
	if e.debug {
		level = slog.LevelDebug
	}
	opts := &slog.HandlerOptions{Level: level}
	if e.logFormat.value == "json" {
		return slog.New(slog.NewJSONHandler(e.Stderr, opts))
	}
	return slog.New(slog.NewTextHandler(e.Stderr, opts))
}

// choice is a flag that takes one of a few words.
type choice struct {
	value   string
	allowed []string
}

func (c *choice) String() string { return c.value }
func (c *choice) Type() string   { return strings.Join(c.allowed, "|") }
func (c *choice) Set(s string) error {
	if !slices.Contains(c.allowed, s) {
		return fmt.Errorf("want %s", strings.Join(c.allowed, ", "))
	}
	c.value = s
	return nil
}
