package cli

import (
	"regexp"
	"strings"
	"sync"

	"github.com/spf13/cobra"
)

// What cobra and pflag say of a wrong command line, where it is put for a
// programmer. A sentence of theirs that is not here, or not any more, is
// printed as it is.
var (
	saidCount    = lazily(`^(accepts|requires) .*arg\(s\)`)
	saidNone     = lazily(`^unknown command (".*") for "`) // of cobra.NoArgs
	saidRequired = lazily(`^required flag\(s\) (.+) not set$`)
	saidOneOf    = lazily(`^at least one of the flags in the group \[(.+)\] is required$`)
	saidTogether = lazily(`^if any flags in the group \[.+\] are set they must all be set; missing \[(.+)\]$`)
	saidExclude  = lazily(`^if any flags in the group \[.+\] are set none of the others can be; \[(.+)\] were all set$`)
	saidNumber   = lazily(`strconv\.[A-Za-z]+: parsing ".*": `)
)

// plainUsage says for a person what message, about the command line of c,
// says.
func plainUsage(c *cobra.Command, message string) string {
	if saidCount().MatchString(message) {
		return "wrong number of arguments: want " + c.CommandPath() + strings.TrimPrefix(c.Use, c.Name())
	}
	if said := saidNone().FindStringSubmatch(message); said != nil {
		return "unexpected argument " + said[1] + ": want " + c.CommandPath() + " with flags only"
	}
	for _, said := range []struct {
		is    func() *regexp.Regexp
		plain string
	}{
		{saidRequired, "missing flag: want "},
		{saidOneOf, "missing flag: want one of "},
		{saidTogether, "missing flag: want "},
		{saidExclude, "flags that exclude each other: "},
	} {
		if found := said.is().FindStringSubmatch(message); found != nil {
			return said.plain + flagNames(found[1])
		}
	}
	return saidNumber().ReplaceAllString(message, "")
}

// flagNames turns cobra's lists (a b; or "a", "b") into --a, --b.
func flagNames(list string) string {
	names := strings.FieldsFunc(list, func(r rune) bool { return strings.ContainsRune(` ,"`, r) })
	for i := range names {
		names[i] = "--" + names[i]
	}
	return strings.Join(names, ", ")
}

// lazily gives the regular expression when it is first asked for: some programs
// are started for each question, and never ask.
func lazily(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}
