package node

import (
	"fmt"

	"devicetrust/audit/event"
	"devicetrust/policy"
)

// endAction of a port event: policy has ended what was forwarded.
const endAction = "end"

// endedForward is what policy ends of what a connection forwards, and why.
type endedForward struct {
	target policy.Target
	reason string
}

// all is what is forwarded, for one reason to end all of it.
func (f *forwards) all(reason string) []endedForward {
	f.mu.Lock()
	defer f.mu.Unlock()
	ended := make([]endedForward, 0, len(f.listeners)+len(f.open))
	for l := range f.listeners {
		ended = append(ended, endedForward{l.at, reason})
	}
	for one := range f.open {
		ended = append(ended, endedForward{one.target, reason})
	}
	return ended
}

// recordEnded writes down, once for all of it, what of a's is ended. It ends
// whether or not that can be recorded, and nobody waits: the record may, for
// room, and the next lock must not.
func (c *connection) recordEnded(a *admission, ended []endedForward) {
	if a == nil || len(ended) == 0 || !c.server.hold() {
		return
	}
	lines, addr := endedLines(ended)
	e := event.Event{Type: event.Port, Action: endAction, Addr: addr, Message: ended[0].reason, Reasons: boundedLines(lines)}
	go func() {
		defer c.server.work.Done()
		defer c.recovered("record")
		if err := c.server.recordFor(a, c.about(e, a)); err != nil {
			c.server.log.Error("the end of what is forwarded is not recorded", "sid", c.forwards.id, "error", err)
		}
	}()
}

// endedLines are what is ended, those with one target in one line: a browser
// has dozens. Reasons that are not the first one's are told. addr is that of
// all, or empty.
func endedLines(ended []endedForward) (lines []string, addr string) {
	times := map[endedForward]int{}
	var once []endedForward
	for _, one := range ended {
		if times[one]++; times[one] == 1 {
			once = append(once, one)
		}
	}
	for _, one := range once {
		line := endedTitle(one.target)
		if n := times[one]; n > 1 {
			line += fmt.Sprintf(" (%d)", n)
		}
		if one.reason != once[0].reason {
			line += ": " + one.reason
		}
		lines = append(lines, line)
	}
	if len(once) == 1 {
		addr = portEvent(once[0].target).Addr
	}
	return lines, addr
}

// endedTitle is what is forwarded, in the words of its records.
func endedTitle(target policy.Target) string {
	switch target.Kind {
	case policy.ToAgent:
		return "agent"
	case policy.ToDisplay:
		return "X11"
	default:
		e := portEvent(target)
		return e.Action + " " + e.Addr
	}
}

// announce tells people at terminals of this connection.
func (c *connection) announce(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.sessions {
		s.announce(text)
	}
}
