package main

import (
	"errors"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
)

// ttl is a flag for how long something is good; zero is the server's choice.
type ttl time.Duration

func (t *ttl) Type() string { return "duration" }

func (t *ttl) String() string {
	if *t == 0 {
		return ""
	}
	return t.duration().String()
}

// Set takes Go's notation, as 30m or 12h.
func (t *ttl) Set(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil {
		return errors.New("want a duration such as 30m or 12h")
	}
	if d <= 0 {
		return errors.New("want more than nothing")
	}
	*t = ttl(d)
	return nil
}

// wire is t for a request.
func (t *ttl) wire() *durationpb.Duration {
	if *t == 0 {
		return nil
	}
	return durationpb.New(t.duration())
}

func (t *ttl) duration() time.Duration { return time.Duration(*t) }

func addTTL(c *cobra.Command, name, usage string) *ttl {
	t := new(ttl)
	c.Flags().Var(t, name, usage)
	return t
}

// moment is a flag for a time.
type moment struct{ time.Time }

func (m *moment) Type() string { return "time" }

func (m *moment) String() string {
	if m.IsZero() {
		return ""
	}
	return m.Format(time.RFC3339)
}

// Set takes RFC 3339.
func (m *moment) Set(s string) (err error) {
	if m.Time, err = time.Parse(time.RFC3339, s); err != nil {
		return errors.New("want a time such as 2026-01-31T18:00:00Z")
	}
	return nil
}

// require marks flags that must be given. They exist: the tests call every
// command without them.
func require(c *cobra.Command, names ...string) {
	for _, name := range names {
		_ = c.MarkFlagRequired(name)
	}
}

// complete offers words for a flag in the shell.
func complete(c *cobra.Command, flag string, words ...string) {
	_ = c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}
