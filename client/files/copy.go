// Package files copies files and folders between this machine and nodes, and
// from node to node by way of this machine, by the rules of scp(1): links are
// followed, names that a node makes up stay inside the target.
package files

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"connectrpc.com/connect"
	"github.com/pkg/sftp"

	"devicetrust/api"
)

// Place is a path in a tree.
type Place struct {
	Tree Tree
	Path string
}

func (p Place) String() string { return p.Tree.shown(p.Path) }

func (p Place) in(name string) Place { return Place{p.Tree, p.Tree.join(p.Path, name)} }

// Copy says how to copy, and who hears of it.
type Copy struct {
	// Recursive copies folders too.
	Recursive bool
	// Preserve keeps modes and the times of the last change.
	Preserve bool
	// Failed is told of each thing that is not copied while the rest goes on.
	Failed func(error)
	// Progress is told how far a file is, with each part of it, and of 0 when it
	// begins; nil is not.
	Progress func(name string, done, size int64)
}

// Run copies the sources to the target: into it where it is a folder, else as
// it. An error means that nothing more can be copied; what failed by itself has
// been told to Failed.
func (c Copy) Run(ctx context.Context, sources []Place, target Place) error {
	var from []Place
	for _, s := range sources {
		paths, err := s.Tree.glob(s.Path)
		if err != nil {
			return failure(s, err)
		}
		for _, p := range paths {
			from = append(from, Place{s.Tree, p})
		}
	}
	into, err := isFolder(target)
	if err != nil {
		return err
	}
	if !into && (len(from) > 1 || strings.HasSuffix(target.Path, "/") && !c.Recursive) {
		return api.Refuse(connect.CodeFailedPrecondition, "%s: not a directory", target)
	}
	for _, s := range from {
		to := target
		// What is called by no name of its own is copied into the folder itself.
		if name := s.Tree.base(s.Path); into && name != "." && name != ".." && name != "/" && name != `\` {
			if _, local := s.Tree.(Local); !local && !isName(name) {
				c.Failed(badName(s, name))
				continue
			}
			to = target.in(name)
		}
		if err := c.told(ctx, c.entry(ctx, s, to, 0)); err != nil {
			return err
		}
	}
	return nil
}

// isFolder: a target that is not there is none.
func isFolder(target Place) (bool, error) {
	info, err := target.Tree.stat(target.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, failure(target, err)
	}
	return info.IsDir(), nil
}

// told passes err on to Failed, and gives back what ends everything.
func (c Copy) told(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, sftp.ErrSSHFxConnectionLost) || errors.Is(err, errListing) {
		return err
	}
	c.Failed(err)
	return nil
}

func (c Copy) entry(ctx context.Context, from, to Place, depth int) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	info, err := from.Tree.stat(from.Path)
	if err != nil {
		return failure(from, err)
	}
	if err := apart(from, to, info.IsDir()); err != nil {
		return err
	}
	switch {
	case info.Mode().IsRegular():
		return c.file(from, to, info)
	case info.IsDir() && c.Recursive:
		return c.folder(ctx, from, to, info, depth)
	case info.IsDir():
		return api.Refuse(connect.CodeInvalidArgument, "%s: not a regular file", from).
			WithHint("It is a directory: copy it with -r.")
	}
	return api.Refuse(connect.CodeInvalidArgument, "%s: not a regular file", from)
}

// apart refuses to copy a file onto itself, which would empty it, and a folder
// into itself, which would have no end.
func apart(from, to Place, folder bool) error {
	if from.Tree != to.Tree {
		return nil
	}
	source, err := from.Tree.real(from.Path)
	if err != nil {
		return failure(from, err)
	}
	target, err := to.Tree.real(to.Path)
	if err != nil {
		return nil //nolint:nilerr // what is not there is another one
	}
	if source == target || folder && strings.HasPrefix(target, strings.TrimSuffix(source, "/")+"/") {
		return api.Refuse(connect.CodeInvalidArgument, "%s and %s are the same, or one is in the other", from, to)
	}
	return nil
}

func (c Copy) folder(ctx context.Context, from, to Place, info fs.FileInfo, depth int) error {
	if depth >= maxDepth {
		return api.Refuse(connect.CodeResourceExhausted, "%s: more than %d directories deep", from, maxDepth)
	}
	names, err := from.Tree.list(from.Path)
	if err != nil {
		return failure(from, err)
	}
	mode, err := c.makeFolder(to, info.Mode().Perm())
	if err != nil {
		return failure(to, err)
	}
	slices.Sort(names)
	for _, name := range names {
		if _, local := from.Tree.(Local); !local && !isName(name) {
			c.Failed(badName(from, name))
			continue
		}
		if err := c.told(ctx, c.entry(ctx, from.in(name), to.in(name), depth+1)); err != nil {
			return err
		}
	}
	// Only now: a folder that must not be written has to be filled first.
	if err := mode(); err != nil {
		return failure(to, err)
	}
	if c.Preserve {
		return failure(to, to.Tree.chtimes(to.Path, info.ModTime()))
	}
	return nil
}

// makeFolder makes the folder, writable for us, where it is not there, and
// returns what gives it its mode in the end.
func (c Copy) makeFolder(to Place, mode fs.FileMode) (settle func() error, err error) {
	there, err := to.Tree.stat(to.Path)
	isNew := errors.Is(err, fs.ErrNotExist)
	if isNew {
		if err = to.Tree.mkdir(to.Path); err == nil {
			there, err = to.Tree.stat(to.Path)
		}
	}
	if err != nil {
		return nil, err
	}
	if !there.IsDir() {
		return nil, errors.New("not a directory")
	}
	switch {
	case c.Preserve:
	case isNew: // as the umask has it
		mode &= there.Mode().Perm()
	default:
		return func() error { return nil }, nil
	}
	if isNew {
		err = to.Tree.chmod(to.Path, mode|0o700)
	}
	return func() error { return to.Tree.chmod(to.Path, mode) }, err
}

func (c Copy) file(from, to Place, info fs.FileInfo) error {
	in, err := from.Tree.open(from.Path)
	if err != nil {
		return failure(from, err)
	}
	defer in.Close() // it was only read
	mode := info.Mode().Perm()
	out, err := to.Tree.create(to.Path, mode)
	if err != nil {
		return failure(to, err)
	}
	wrote := stream(out, in, c.watch(from, info.Size()))
	if wrote.to == nil && wrote.from == nil && c.Preserve {
		wrote.to = out.Chmod(mode)
	}
	if err := out.Close(); wrote.to == nil {
		wrote.to = err
	}
	if wrote.from != nil {
		return failure(from, wrote.from)
	}
	if wrote.to != nil {
		return failure(to, wrote.to)
	}
	if c.Preserve {
		return failure(to, to.Tree.chtimes(to.Path, info.ModTime()))
	}
	return nil
}

func badName(in Place, name string) error {
	return api.Refuse(connect.CodeInvalidArgument, "%s: the node calls a file %s, which is no name for one", in, strconv.QuoteToASCII(name))
}

// failure says of a place why it failed; of a refusal there is nothing to add.
func failure(at Place, err error) error {
	if err == nil {
		return nil
	}
	if r, ok := errors.AsType[*api.Refusal](err); ok {
		return r
	}
	return &placeError{at: at.String(), err: err}
}

// placeError is an error at a place, in a person's words.
type placeError struct {
	at  string
	err error
}

func (e *placeError) Error() string { return e.at + ": " + reason(e.err) }
func (e *placeError) Unwrap() error { return e.err }

// reason leaves out what only a programmer reads.
func reason(err error) string {
	switch {
	case errors.Is(err, sftp.ErrSSHFxConnectionLost):
		return "the connection broke"
	case errors.Is(err, fs.ErrNotExist):
		return "no such file or directory"
	case errors.Is(err, fs.ErrPermission):
		return "permission denied"
	}
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err.Error()
	}
	if s, ok := errors.AsType[*sftp.StatusError](err); ok {
		return statusText(s)
	}
	return err.Error()
}

// statusText is what the node said of its error: the package has it quoted.
func statusText(s *sftp.StatusError) string {
	text := strings.TrimPrefix(s.Error(), "sftp: ")
	if quoted, err := strconv.QuotedPrefix(text); err == nil {
		if said, err := strconv.Unquote(quoted); err == nil && said != "" {
			text = said
		}
	}
	if len(text) > maxReason {
		text = text[:maxReason]
	}
	return text
}
