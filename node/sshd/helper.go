package sshd

import (
	"fmt"
	"io"
	"time"
)

// Helper is the AuthorizedPrincipalsCommand of sshd. It has no side effects but
// what it says.
type Helper struct {
	Now func() time.Time
	// Location is the time zone of the machine, which sshd has too.
	Location       *time.Location
	Stdout, Stderr io.Writer
	// Log is the socket of the system's log, /dev/log: sshd throws away what is
	// on stderr. It may be empty, or not there.
	Log string
	PID int
}

// Exit statuses. sshd lets nobody in for whom nothing was said, nor whose helper
// left with another than answered (auth2-pubkey.c, match_principals_command). Of
// those it logs an error with the whole command line, certificate and all: that
// is for a helper that does not work, and not for each person who is refused.
const (
	answered = 0
	failed   = 1
	misused  = 2
)

// outcome is what sshd is told, or why it is told nothing.
type outcome struct {
	line, note string
	no         *refusal
}

// Run answers one question of sshd: args are --dir=DIR and the Tokens. It gives
// the exit status, after maxAnswerTime at the latest; that somebody is refused
// is an answer too, of which nothing is on Stdout.
func (h Helper) Run(args []string) int {
	o := within(time.After(maxAnswerTime), func() outcome { return h.answer(args) })
	if o.no != nil {
		h.say(o.no.String())
		return o.no.status()
	}
	if o.note != "" {
		h.say(o.note)
	}
	if _, err := io.WriteString(h.Stdout, o.line); err != nil {
		return failed
	}
	return answered
}

func (no *refusal) status() int {
	switch no.cause {
	case causeArguments:
		return misused
	case causeState, causeTime, causeFault:
		return failed
	default:
		return answered
	}
}

func (h Helper) say(text string) {
	authLog(h.Log).write(h.Now().In(h.Location), h.PID, text)
	fmt.Fprintln(h.Stderr, text)
}

// within gives what answer says, where it says it before late, and does not
// panic: whatever happens, nobody is let in by it.
func within(late <-chan time.Time, answer func() outcome) outcome {
	said := make(chan outcome, 1)
	go func() {
		defer func() {
			if fault := recover(); fault != nil {
				said <- outcome{no: &refusal{cause: causeFault, age: unread, reason: fmt.Sprintf("dtnoded has a fault: %v", fault)}}
			}
		}()
		said <- answer()
	}()
	select {
	case o := <-said:
		return o
	case <-late:
		return outcome{no: &refusal{cause: causeTime, age: unread, reason: fmt.Sprintf("there is no answer after %v: can the files be read?", maxAnswerTime)}}
	}
}

func (h Helper) answer(args []string) outcome {
	dir, q, err := parseArguments(args)
	if err != nil {
		return outcome{no: (&refusal{age: unread}).because(causeArguments, err)}
	}
	a, no := dir.decide(&q, h.Now())
	if no != nil {
		return outcome{no: no}
	}
	o := outcome{}
	o.line, o.note = a.line(h.Location)
	return o
}
