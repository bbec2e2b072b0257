"""Pictures: colours of classes, overlays, grids. Knows neither tasks nor reports."""
