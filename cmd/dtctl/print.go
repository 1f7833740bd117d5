package main

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"devicetrust/cmd/internal/cli"
)

// say prints a result, line by line safe for a terminal.
func (a *app) say(format string, args ...any) error {
	lines := strings.Split(fmt.Sprintf(format, args...), "\n")
	for i := range lines {
		lines[i] = cli.Safe(lines[i])
	}
	_, err := fmt.Fprintln(a.Stdout, strings.Join(lines, "\n"))
	return err
}

// utc is a time for JSON; nil where there is none.
func utc(t *timestamppb.Timestamp) *time.Time {
	if t == nil {
		return nil
	}
	v := t.AsTime().UTC()
	return &v
}
