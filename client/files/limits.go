package files

const (
	// maxDepth of folders in folders: links that go round in a circle end here,
	// as they do with sftp(1).
	maxDepth = 64

	// maxListing bounds what a node may send for one folder: 200,000 files with
	// names of 150 bytes are 50 MiB with the long form that nobody reads.
	maxListing = 64 << 20

	// partSize of a file is asked for and sent at a time: what each server takes
	// (draft-ietf-secsh-filexfer-02, section 3).
	partSize = 32 << 10

	// maxReason of a node's words about a failure.
	maxReason = 256
)
