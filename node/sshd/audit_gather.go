package sshd

import (
	"slices"
)

// findingKey is what findings of several connections have in common.
type findingKey struct {
	code, setting, value, file string
	line                       int
}

// holder is a finding, and for which of the answers it holds.
type holder struct {
	Finding
	block   int
	answers []int
}

// holds notes that f holds for answer number at. words, where it is not nil,
// tells which line of its setting is meant.
func (a *auditor) holds(at int, f Finding, words func(args []string) bool) {
	w := a.answers[at]
	block := -1
	if l := a.line(w, f.Setting, words); l != nil {
		f.File, f.Line, block = l.file, l.number, l.block
	} else if f.Remedy == removeLine {
		f.Remedy = "Run `dtnoded sshd install`, which sets it."
	}
	f.Value = brief(f.Value)
	key := findingKey{f.Code, f.Setting, f.Value, f.File, f.Line}
	if a.holders[key] == nil {
		a.holders[key] = &holder{Finding: f, block: block}
	}
	a.holders[key].answers = append(a.holders[key].answers, at)
}

// line is that which gives the connection the setting.
func (a *auditor) line(w answer, setting string, words func(args []string) bool) *configLine {
	if w.asIf < 0 {
		return a.config.locate(setting, &w.conn, words)
	}
	for i := range a.config.lines {
		l := &a.config.lines[i]
		for b := w.asIf; b >= 0; b = a.config.blocks[b].outer {
			if l.block == b && l.keyword == setting && (words == nil || words(l.args)) {
				return l
			}
		}
	}
	return a.config.global(setting, words)
}

// gather makes one finding of those with the same cause, and says for whom it
// holds.
func (a *auditor) gather() {
	for _, h := range a.holders {
		f := h.Finding
		if !a.everybody(h.answers) {
			f.For = a.whom(h)
		}
		a.add(f)
	}
}

// everybody: where nobody is singled out, or for all who are told apart.
func (a *auditor) everybody(answers []int) bool {
	if slices.ContainsFunc(answers, func(at int) bool { return a.answers[at].plain }) {
		return true
	}
	for at, w := range a.answers {
		if w.asIf < 0 && !slices.Contains(answers, at) {
			return false
		}
	}
	return true
}

func (a *auditor) whom(h *holder) []string {
	if h.block >= 0 {
		return []string{a.config.criteriaText(h.block)}
	}
	var all []string
	for _, at := range h.answers {
		w := a.answers[at]
		text := "User " + w.conn.user
		if w.asIf >= 0 {
			text = a.config.criteriaText(w.asIf)
		}
		if !slices.Contains(all, text) && len(all) < maxWhom {
			all = append(all, text)
		}
	}
	return all
}
