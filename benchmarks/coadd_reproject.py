"""The plain baseline: reproject's interpolating coadd with its background matching (constants).

python benchmarks/coadd_reproject.py FRAMES… [--like MOSAIC.fits] [--output reproject.fits]
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from reproject import reproject_interp
from reproject.mosaicking import find_optimal_celestial_wcs, reproject_and_coadd


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("frames", nargs="+")
    parser.add_argument("--like", help="FITS file whose grid is used")
    parser.add_argument("--output", default="reproject.fits")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    inputs = [(fits.getdata(f).astype(np.float32), WCS(fits.getheader(f))) for f in options.frames]
    if options.like:
        header = fits.getheader(options.like)
        wcs, shape = WCS(header), (header["NAXIS2"], header["NAXIS1"])
    else:
        wcs, shape = find_optimal_celestial_wcs(inputs)
    image, _ = reproject_and_coadd(
        inputs, wcs, shape_out=shape, reproject_function=reproject_interp, match_background=True, order="bilinear"
    )
    fits.writeto(options.output, image.astype(np.float32), wcs.to_header(), overwrite=True)


if __name__ == "__main__":
    main()
