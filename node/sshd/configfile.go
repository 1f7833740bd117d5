package sshd

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"devicetrust/durable"
)

// sshdFolder is where relative names of Include lie (pathnames.h, SSHDIR).
const sshdFolder = "/etc/ssh"

// configFile is sshd's configuration with all that it includes, in the order in
// which sshd reads it.
type configFile struct {
	lines  []configLine
	blocks []block
	files  []string // each once
	// globs are the names of Include as they were written, with their folder.
	globs []string
}

// configLine is one setting; block is the Match block that it is in, -1 where it
// is in none.
type configLine struct {
	file    string
	number  int
	keyword string // lower case
	args    []string
	block   int
}

// block is a Match block. It holds for a connection where its criteria do and
// those of the block around it, the Match block that includes its file: outer is
// -1 where there is none.
type block struct {
	file     string
	number   int
	text     string
	criteria []criterion
	outer    int
}

// readConfig reads the configuration in the file of that name. What it cannot
// read is an error: what stands there is then not known.
func readConfig(name string) (*configFile, error) {
	c := &configFile{}
	return c, c.include(name, -1, 0)
}

func (c *configFile) include(name string, outer, depth int) error {
	if depth > maxIncludeDepth {
		return fmt.Errorf("%s: Include goes deeper than %d files", name, maxIncludeDepth)
	}
	if len(c.files) >= maxConfigFiles {
		return fmt.Errorf("the configuration has more than %d files", maxConfigFiles)
	}
	text, err := durable.Read(name, maxConfigFile)
	if err != nil {
		return err
	}
	if !slices.Contains(c.files, name) {
		c.files = append(c.files, name)
	}
	return c.parse(name, string(text), outer, func(pattern string, current int) error {
		return c.includeAll(pattern, current, depth+1)
	})
}

// includeAll includes what glob(3) finds: sorted, and without names that begin
// with a dot where the pattern does not.
func (c *configFile) includeAll(pattern string, outer, depth int) error {
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(sshdFolder, pattern)
	}
	c.globs = append(c.globs, pattern)
	if len(c.globs) > maxConfigFiles {
		return fmt.Errorf("the configuration includes more than %d times", maxConfigFiles)
	}
	names, err := filepath.Glob(strings.ReplaceAll(pattern, "[!", "[^"))
	if err != nil {
		return fmt.Errorf("include %q: %w", pattern, err)
	}
	dotted := strings.HasPrefix(filepath.Base(pattern), ".")
	for _, name := range names {
		if !dotted && strings.HasPrefix(filepath.Base(name), ".") {
			continue
		}
		if err := c.include(name, outer, depth); err != nil {
			return err
		}
	}
	return nil
}

// parse takes the lines of one file. A Match block ends with its file.
func (c *configFile) parse(name, text string, outer int, include func(pattern string, current int) error) error {
	current, number := outer, 0
	for line := range strings.Lines(text) {
		number++
		keyword, args, err := splitLine(line)
		if err != nil {
			return fmt.Errorf("%s:%d: %w", name, number, err)
		}
		if keyword == "" {
			continue
		}
		if len(c.lines)+len(c.blocks) >= maxConfigLines {
			return fmt.Errorf("the configuration has more than %d lines", maxConfigLines)
		}
		switch keyword {
		case "include":
			for _, pattern := range args {
				if err := include(pattern, current); err != nil {
					return err
				}
			}
		case "match":
			if len(c.blocks) >= maxBlocks {
				return fmt.Errorf("the configuration has more than %d Match blocks", maxBlocks)
			}
			c.blocks = append(c.blocks, block{name, number, strings.Join(args, " "), parseCriteria(args), outer})
			current = len(c.blocks) - 1
		default:
			c.lines = append(c.lines, configLine{name, number, keyword, args, current})
		}
	}
	return nil
}

// aliases are older names of keywords (servconf.c, keywords).
var aliases = map[string]string{
	"challengeresponseauthentication": "kbdinteractiveauthentication",
	"skeyauthentication":              "kbdinteractiveauthentication",
	"dsaauthentication":               "pubkeyauthentication",
	"rsaauthentication":               "pubkeyauthentication",
	"pubkeyacceptedkeytypes":          "pubkeyacceptedalgorithms",
	"hostbasedacceptedkeytypes":       "hostbasedacceptedalgorithms",
	"hostdsakey":                      "hostkey",
	"keepalive":                       "tcpkeepalive",
}

// splitLine takes a line apart as sshd does (misc.c, argv_split and strdelim):
// a keyword, perhaps a "=", and words, which may be in quotes; from a word that
// begins with # on it is a comment.
func splitLine(line string) (keyword string, args []string, err error) {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return "", nil, nil
	}
	end := strings.IndexAny(line, " \t=\"")
	if end < 0 {
		end = len(line)
	}
	keyword = strings.ToLower(line[:end])
	rest := strings.TrimLeft(line[end:], " \t")
	rest = strings.TrimLeft(strings.TrimPrefix(rest, "="), " \t")
	if keyword == "" {
		return "", nil, errors.New("a line without a keyword")
	}
	if known := aliases[keyword]; known != "" {
		keyword = known
	}
	args, err = splitWords(rest)
	return keyword, args, err
}

func splitWords(s string) ([]string, error) {
	var words []string
	for {
		s = strings.TrimLeft(s, " \t")
		if s == "" || s[0] == '#' {
			return words, nil
		}
		word, rest, err := firstWord(s)
		if err != nil {
			return nil, err
		}
		words, s = append(words, word), rest
	}
}

// firstWord: a backslash stands before a quote, a backslash and, outside of
// quotes, a space.
func firstWord(s string) (word, rest string, err error) {
	var b strings.Builder
	var quote byte
	for i := 0; i < len(s); i++ {
		ch := s[i]
		switch {
		case ch == '\\' && i+1 < len(s) && (strings.IndexByte(`\"'`, s[i+1]) >= 0 || quote == 0 && s[i+1] == ' '):
			i++
			b.WriteByte(s[i])
		case quote == 0 && (ch == ' ' || ch == '\t'):
			return b.String(), s[i:], nil
		case quote == 0 && (ch == '"' || ch == '\''):
			quote = ch
		case quote != 0 && ch == quote:
			quote = 0
		default:
			b.WriteByte(ch)
		}
	}
	if quote != 0 {
		return "", "", errors.New("a quote that does not end")
	}
	return b.String(), "", nil
}
