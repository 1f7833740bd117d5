package resource

// Bounds of what is read. The yaml parser needs some 200 bytes for the
// smallest node, so a text may grow by that much while it is read.
const (
	// MaxText: documents are kilobytes; a file of all devices that can be
	// registered at once fits, with 300 bytes each. What goes to the server
	// has its own, smaller bound there.
	MaxText = 16 << 20
	// maxDocuments is the same for many small ones.
	maxDocuments = 50_000
	// maxName is that of a user, the longest of all names.
	maxName = 128
	// maxLine is a label, a message, a field of a device: one line that
	// people read.
	maxLine = 512
	// maxDescription is a paragraph.
	maxDescription = 4096
	// maxLabels is the same as what a role may ask for.
	maxLabels = 64
	// maxNodeAddresses of a node and the bytes of one of its labels: far above
	// what people use, and all of them fit into certificates and into what
	// every node keeps.
	maxNodeAddresses = 16
	maxNodeLabel     = 256
	// maxAllowedCAs is several times the number of TPM makers.
	maxAllowedCAs = 128
)
