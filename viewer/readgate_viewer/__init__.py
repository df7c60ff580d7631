"""The built OHIF viewer as data; Readgate finds the folder `dist` beside this file and serves it under /ohif/."""
